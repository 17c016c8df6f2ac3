"""The fresh process of `files`: reads a list of jobs from its input, opens each model and notes what it answers."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

import plausible
from plausible.checks.files import answers


def main() -> None:
    for job in json.loads(sys.stdin.read()):
        model = plausible.load(job["model"])
        X = model.space_.decode(torch.from_numpy(np.load(job["codes"])))
        np.savez(job["out"], **answers(model, X, job["context"]))


if __name__ == "__main__":
    main()
