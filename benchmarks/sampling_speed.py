"""`sampling.nuts`: effective draws a second, all chains in one batch, against one chain after the other and BlackJAX.

    python benchmarks/sampling_speed.py
    python benchmarks/sampling_speed.py --peer PATH/TO/python      # of an environment with blackjax, for its columns

Targets: 20 independent normals with standard deviations from 0.1 to 10; 20 normals with correlations 0.9^|i-j|; the
posterior of a logistic regression (569 rows, 30 standardised columns and an intercept, N(0, 1) priors). Every sampler
takes 300 steps of warm-up with adaptation of step size and diagonal metric at target acceptance 0.8, and 300 draws a
chain. Counted are the smallest bulk effective sample size over coordinates, by one estimator for all, over the seconds
of warm-up and draws; BlackJAX's compilation is shown apart. Both must also agree on the posterior's moments: the last
column is the largest difference of means in standard deviations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS = 300
TARGETS = ("scales", "correlated", "logistic")
CHAINS = (4, 64)


def constants(name: str) -> tuple[int, list[np.ndarray]]:
    """Return dimensions and the arrays that a target is made of, the same for both sides."""
    if name == "scales":
        return 20, [np.geomspace(0.1, 10, 20)]
    if name == "correlated":
        i = np.arange(20)
        return 20, [np.linalg.inv(0.9 ** np.abs(i[:, None] - i))]
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X = np.column_stack([np.ones(len(X)), (X - X.mean(0)) / X.std(0)])
    return 31, [X, 2.0 * y - 1]


def ours(name: str, chains: int, seed: int, batched: bool = True) -> tuple[np.ndarray, float]:
    """Return draws (chains, n, D) and seconds."""
    import torch

    from plausible import sampling

    dims, arrays = constants(name)
    a = [torch.from_numpy(v) for v in arrays]
    log_density = {
        "scales": lambda x: -0.5 * ((x / a[0]) ** 2).sum(1),
        "correlated": lambda x: -0.5 * ((x @ a[0]) * x).sum(1),
        "logistic": lambda x: torch.nn.functional.logsigmoid(x @ a[0].T * a[1]).sum(1) - 0.5 * (x**2).sum(1),
    }[name]
    start = np.random.default_rng(seed).normal(size=(chains, dims)) * 0.1
    started = time.perf_counter()
    settings = {"warmup": STEPS, "random_state": seed}
    if batched:
        draws = sampling.nuts(log_density, start, STEPS, **settings).draws
    else:
        draws = np.concatenate([sampling.nuts(log_density, s[None], STEPS, **settings).draws for s in start])
    return draws, time.perf_counter() - started


def peer(folder: str) -> None:
    """BlackJAX's side: draws to files, seconds to standard output."""
    import blackjax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    report = {}
    for name in TARGETS:
        with np.load(Path(folder) / f"{name}.npz") as f:
            a = [jnp.asarray(f[key]) for key in sorted(f.files)]
        dims = {"scales": 20, "correlated": 20, "logistic": 31}[name]
        log_density = {
            "scales": lambda x, a=a: -0.5 * ((x / a[0]) ** 2).sum(),
            "correlated": lambda x, a=a: -0.5 * x @ a[0] @ x,
            "logistic": lambda x, a=a: jax.nn.log_sigmoid(a[0] @ x * a[1]).sum() - 0.5 * (x**2).sum(),
        }[name]

        def chain(key, start, log_density=log_density):
            first, second = jax.random.split(key)
            warmup = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.8)
            (state, parameters), _ = warmup.run(first, start, STEPS)
            kernel = blackjax.nuts(log_density, **parameters)

            def step(state, key):
                state, _ = kernel.step(key, state)
                return state, state.position

            return jax.lax.scan(step, state, jax.random.split(second, STEPS))[1]

        for chains in CHAINS:
            start = jnp.asarray(np.random.default_rng(1).normal(size=(chains, dims)) * 0.1)
            many = jax.jit(jax.vmap(chain))
            began = time.perf_counter()
            compiled = many.lower(jax.random.split(jax.random.key(0), chains), start).compile()
            compiling, began = time.perf_counter() - began, time.perf_counter()
            draws = np.asarray(compiled(jax.random.split(jax.random.key(1), chains), start))
            report[f"{name} {chains}"] = {"seconds": time.perf_counter() - began, "compiling": compiling}
            np.save(Path(folder) / f"{name}_{chains}.npy", draws)
    print(json.dumps(report))


def main() -> None:
    from side_by_side import Others, machine, table

    from plausible.sampling import Draws

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment that has blackjax")
    given = parser.parse_args()

    def ess(draws: np.ndarray) -> float:
        return float(Draws("", draws, np.zeros(draws.shape[:2])).ess().min())

    lines = []
    with tempfile.TemporaryDirectory() as folder, Others() as others:
        theirs = {}
        if given.peer:
            for name in TARGETS:
                np.savez(Path(folder) / f"{name}.npz", *constants(name)[1])
            command = [given.peer, __file__, "--as-peer", folder]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
            theirs = json.loads(answer.stdout.splitlines()[-1])
        for name in TARGETS:
            ours(name, 4, 0)  # the first call loads libraries
            for chains in CHAINS:
                draws, seconds = ours(name, chains, 1)
                line = [name, chains, f"{ess(draws):,.0f}", f"{seconds:.1f}", f"{ess(draws) / seconds:,.0f}"]
                if chains <= 4:
                    alone, took = ours(name, chains, 2, batched=False)
                    line.append(f"{ess(alone) / took:,.0f}")
                else:
                    line.append("")
                if theirs:
                    other, entry = np.load(Path(folder) / f"{name}_{chains}.npy"), theirs[f"{name} {chains}"]
                    away = np.abs(draws.mean((0, 1)) - other.mean((0, 1))) / other.std((0, 1))
                    line += [f"{ess(other) / entry['seconds']:,.0f}", f"{entry['compiling']:.1f}", f"{away.max():.3f}"]
                lines.append(line)
    header = ["target", "chains", "effective draws", "seconds", "a second", "one chain after the other"]
    header += ["BlackJAX, a second", "compiling, s", "largest difference of means"] if theirs else []
    print(machine(), f"others used {others}", sep="; ", end="\n\n")
    print(table(header, lines))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--as-peer":
        peer(sys.argv[2])
    else:
        main()
