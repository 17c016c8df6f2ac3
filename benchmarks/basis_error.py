"""`Basis` against the other estimators of one dimension: mean integrated squared error, by basis and by truth.

    python benchmarks/basis_error.py [--replications 20]

Fresh samples of n rows each; the integral of (p - f)^2 on a grid, averaged over the replications, times 10^4, with its
standard error. 'best fixed' is the cosine series with the one number of terms that is best over all replications, which
nobody knows who does not know the truth.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from scipy import stats
from side_by_side import machine, table

import plausible as pl

GRID = 4000
TERMS = (2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40)


class Claw:
    """Half N(0, 1), and five tenths at -1, -1/2, ..., 1 (Marron and Wand, 1992)."""

    def pdf(self, x: np.ndarray) -> np.ndarray:
        return 0.5 * stats.norm.pdf(x) + sum(0.1 * stats.norm.pdf(x, k / 2 - 1, 0.1) for k in range(5))

    def rvs(self, n: int, random_state: np.random.Generator) -> np.ndarray:
        z, k = random_state.standard_normal(n), random_state.integers(5, size=n)
        return np.where(random_state.random(n) < 0.5, z, k / 2 - 1 + 0.1 * z)


class Steps:
    """Piecewise constant: 0.2, 1.8, 0.6, 1.4 on the quarters of [0, 1]."""

    HEIGHTS = np.array([0.2, 1.8, 0.6, 1.4])

    def pdf(self, x: np.ndarray) -> np.ndarray:
        inside = (x >= 0) & (x < 1)
        return np.where(inside, self.HEIGHTS[(np.clip(x, 0, 0.999999) * 4).astype(int)], 0.0)

    def rvs(self, n: int, random_state: np.random.Generator) -> np.ndarray:
        return (random_state.choice(4, n, p=self.HEIGHTS / 4) + random_state.random(n)) / 4


TRUTHS = {
    "N(0, 1)": (stats.norm(), -5, 5),
    "claw": (Claw(), -4, 4),
    "beta(3, 4)": (stats.beta(3, 4), 0, 1),
    "exponential": (stats.expon(), 0, 10),
    "steps": (Steps(), 0, 1),
}
MODELS = {
    "cosine": lambda: pl.Basis(),
    "legendre": lambda: pl.Basis(basis="legendre"),
    "hermite": lambda: pl.Basis(basis="hermite"),
    "haar": lambda: pl.Basis(basis="haar"),
    "haar, threshold": lambda: pl.Basis(basis="haar", select="threshold"),
    "cosine, not shrunk": lambda: pl.Basis(shrink=False),
    "Histogram": lambda: pl.Histogram(),
    "KernelDensity": lambda: pl.KernelDensity(),
}


def errors(make, truth, low: float, high: float, n: int, replications: int) -> np.ndarray:
    edges = np.linspace(low, high, GRID + 1)
    x = (edges[1:] + edges[:-1]) / 2
    f, out = truth.pdf(x), []
    for r in range(replications):
        X = truth.rvs(n, random_state=np.random.default_rng([n, r]))[:, None]
        p = np.exp(make().fit(X).log_prob(x[:, None]))
        out.append(((p - f) ** 2).mean() * (high - low))
    return np.array(out) * 1e4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--replications", type=int, default=20)
    replications = parser.parse_args().replications
    warnings.simplefilter("ignore")
    start, rows = time.perf_counter(), []
    for n in (200, 2000):
        for name, truth in TRUTHS.items():
            found = [errors(make, *truth, n, replications) for make in MODELS.values()]
            fixed = [errors(lambda m=m: pl.Basis(terms=m), *truth, n, replications).mean() for m in TERMS]
            cells = [f"{e.mean():.3g} ± {e.std(ddof=1) / np.sqrt(replications):.1g}" for e in found]
            rows.append([name, n, *cells, f"{min(fixed):.3g}"])
    print(f"{replications} replications, {time.perf_counter() - start:.0f} s; {machine()}\n")
    print(table(["truth", "n", *MODELS, "best fixed"], rows))


if __name__ == "__main__":
    main()
