"""The neighbours that `KNNDensity` is made of, against scikit-learn and faiss: 10 of 100,000 rows, 10,000 queries.

    python benchmarks/knn_speed.py

faiss (its flat, exact index, in single precision) is measured where it is installed; nothing needs it. Ours and
scikit-learn's give distances in double precision; they must agree to 1e-9. scikit-learn is given the better of its
trees and brute force. The last column is the density itself, `KNNDensity(estimate="balloon", n_neighbors=10)`; in few
dimensions it also makes the tree.
Bar: at least as fast as either at d = 16 and 64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import Others, machine, ratios, rotate, spread, table
from sklearn.neighbors import NearestNeighbors

import plausible as pl
from plausible.families.direct._neighbours import neighbours

K = 10


def timed(act: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        act()
        return time.perf_counter() - started

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    try:
        import faiss
    except ImportError:
        faiss = None
    lines = []
    for d in (4, 16, 64):
        rng = np.random.default_rng(0)
        train, test = rng.standard_normal((given.rows, d)), rng.standard_normal((given.queries, d))
        y, x = torch.from_numpy(train), torch.from_numpy(test)
        theirs = NearestNeighbors(n_neighbors=K, algorithm="kd_tree" if d < 10 else "brute").fit(train)
        density = pl.KNNDensity(estimate="balloon", n_neighbors=K, shape="scalar").fit(train)
        some = slice(200)
        off = np.abs(neighbours(x[some], y, K)[0].numpy() - theirs.kneighbors(test[some])[0]).max()
        if not off < 1e-9:
            raise SystemExit(f"distances differ by {off:.2g} at d = {d}")
        variants = {
            "ours": timed(lambda x=x, y=y: neighbours(x, y, K)),
            "sklearn": timed(lambda m=theirs, q=test: m.kneighbors(q)),
            "density": timed(lambda m=density, q=test: m.log_prob(q)),
        }
        if faiss is not None:
            index = faiss.IndexFlatL2(d)
            index.add(train.astype(np.float32))
            single = test.astype(np.float32)
            variants["faiss"] = timed(lambda i=index, q=single: i.search(q, K))
        with Others() as others:
            seconds = rotate(variants, given.rounds)
        cells = [spread(seconds[v]) if v in seconds else "-" for v in ("ours", "sklearn", "faiss", "density")]
        faster = [spread(ratios(seconds, v, "ours"), ".1f") if v in seconds else "-" for v in ("sklearn", "faiss")]
        lines.append([d, *cells[:3], *faster, cells[3], others])
    header = ["d", "ours, s", "scikit-learn, s", "faiss flat, s", "times scikit-learn", "times faiss"]
    print(machine(), end="\n\n")
    print(table([*header, "log_prob, s", "others used"], lines))


if __name__ == "__main__":
    main()
