"""`NamedLaw` against scipy.stats' own maximum likelihood: seconds a fit, and which of the two is more likely.

    python benchmarks/named_law_speed.py [--rows 100000]

One column of rows drawn from the law itself; scipy is told that the location is zero where the law has none. Its fits
take no weights and give no standard errors; the time of `NamedLaw` includes those, and the look at the data that every
fit begins with. Scipy has no maximum likelihood fit of discrete laws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd
from scipy import stats
from side_by_side import Others, machine, rotate, spread, table

import plausible as pl

LAWS = {
    "normal": (stats.norm(50, 3), stats.norm, {}),
    "laplace": (stats.laplace(-1, 2), stats.laplace, {}),
    "logistic": (stats.logistic(3, 2), stats.logistic, {}),
    "gumbel": (stats.gumbel_r(3, 2), stats.gumbel_r, {}),
    "exponential": (stats.expon(scale=3), stats.expon, {"floc": 0}),
    "gamma": (stats.gamma(2.5, scale=3), stats.gamma, {"floc": 0}),
    "weibull": (stats.weibull_min(2.5, scale=4), stats.weibull_min, {"floc": 0}),
    "log_normal": (stats.lognorm(0.5, scale=2), stats.lognorm, {"floc": 0}),
    "beta": (stats.beta(2, 0.7), stats.beta, {"floc": 0, "fscale": 1}),
    "student_t": (stats.t(3, 10, 2), stats.t, {}),
    "poisson": (stats.poisson(3), None, {}),
    "negative_binomial": (stats.nbinom(3, 0.1), None, {}),
    "binomial": (stats.binom(50, 0.3), None, {}),
}


def seconds(act: Callable[[], object], found: dict, key: str) -> float:
    start = time.perf_counter()
    found[key] = act()
    return time.perf_counter() - start


def row(name: str, n: int) -> list[str]:
    truth, theirs, fixed = LAWS[name]
    X = pd.DataFrame({"x": truth.rvs(n, random_state=0)})
    found: dict = {}
    variants = {"plausible": lambda: seconds(lambda: pl.NamedLaw(law=name).fit(X), found, "plausible")}
    if theirs is not None:
        x = X["x"].to_numpy()
        variants["scipy"] = lambda: seconds(lambda: theirs.fit(x, **fixed), found, "scipy")
    measured = rotate(variants, rounds=3)
    ours = found["plausible"].score(X)
    cells = [name, spread(measured["plausible"], ".3f")]
    if theirs is None:
        return [*cells, "", f"{ours:.6f}", ""]
    best = theirs(*found["scipy"]).logpdf(X["x"]).mean()
    return [*cells, spread(measured["scipy"], ".3f"), f"{ours:.6f}", f"{ours - best:+.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    n = parser.parse_args().rows
    with Others() as others:
        rows = [row(name, n) for name in LAWS]
    header = ["law", "NamedLaw, s", "scipy.stats, s", "nats a row", "more than scipy's"]
    print(f"{n:,} rows; {machine()}; beside it {others}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
