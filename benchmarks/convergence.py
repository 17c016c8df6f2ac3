"""How fast the classical estimators get better with n: root of the mean integrated squared error, against theory.

    python benchmarks/convergence.py [--replications 200] [--neural 5] [--picture build/convergence.svg]

Two truths f: N(0, 1), and 0.5 N(-1.5, 0.5^2) + 0.5 N(1.5, 0.5^2). For each n the models are fitted to fresh samples
through their public face, and the integral of (p - f)^2 is taken on a grid. What theory says of the root MISE, for
large n:

    parametric    C n^-1/2    C^2 = tr(I^-1 J), I the Fisher information, J = integral of (df/dtheta)(df/dtheta)'
    histogram     C n^-1/3    C^2 = (9/16 R(f'))^(1/3), at the width (6 / (n R(f')))^(1/3): 3.491 n^-1/3 for N(0, 1)
    kernel        C n^-2/5    C^2 = 5/4 (R(K)^4 R(f''))^(1/5), at h = (R(K) / (n R(f'')))^(1/5): 1.0592 n^-1/5

with R(g) the integral of g^2, and R(K) = 1 / (2 sqrt(pi)). At finite n the MISE of the kernel estimate is known exactly
(Marron and Wand, Exact mean integrated squared error, 1992), and so is that of a histogram whose bins do not move with
the sample; both stand below what was measured. The exact root MISE of the kernel estimate of N(0, 1) falls as n^-0.370
from n = 100 to 10,000, as n^-0.386 from 1,000 to 1,000,000: the rate of -2/5 is that of larger n, and so is its
constant, from which n = 10,000 is still 7 % away.

Of the learned cumulative the slides say O(log log n / n). That is the scale of the *squared* largest error of a
cumulative: by the law of the iterated logarithm the empirical one has sup |F_n - F| <= sqrt(log log n / (2 n)) in the
end. On the scale of the other rows it is about n^-1/2, and of the cumulative, not of its derivative: the density is
slower. Both are measured.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats
from side_by_side import machine, table

import plausible as pl
from plausible.evaluate.drawing import polyline

SIZES = (100, 300, 1000, 3000, 10_000)
R_K = 1 / (2 * np.sqrt(np.pi))
FINE, SMOOTH = 4000, 500  # points of the grid: where the estimate jumps, and where it does not


# -------------------------------------------------------------------------------------------------------- truths


@dataclass(frozen=True, eq=False)
class Normals:
    """A mixture of normals, and what theory needs to know of it."""

    name: str
    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        which = rng.choice(len(self.weights), size=n, p=self.weights)
        return (self.means[which] + self.deviations[which] * rng.standard_normal(n))[:, None]

    def pdf(self, x: np.ndarray) -> np.ndarray:
        return sum(w * stats.norm.pdf(x, m, s) for w, m, s in self._parts())

    def cdf(self, x: np.ndarray) -> np.ndarray:
        return sum(w * stats.norm.cdf(x, m, s) for w, m, s in self._parts())

    def _parts(self):
        return zip(self.weights, self.means, self.deviations, strict=True)

    def _pairs(self, extra: float, power: int) -> float:
        """sum_ij w_i w_j times the derivative, of even order, of N(0, s_i^2 + s_j^2 + extra) at m_i - m_j."""
        d = self.means[:, None] - self.means
        s = np.sqrt(self.deviations[:, None] ** 2 + self.deviations**2 + extra)
        hermite = np.polynomial.hermite_e.HermiteE.basis(power)(d / s) / s**power
        return float(self.weights @ (hermite * stats.norm.pdf(d, 0, s)) @ self.weights)

    def roughness(self, order: int) -> float:
        """R of the derivative of that order: the integral of its square."""
        return (-1) ** order * self._pairs(0.0, 2 * order)

    def width(self, n: int) -> float:
        return (6 / (n * self.roughness(1))) ** (1 / 3)

    def bandwidth(self, n: int) -> float:
        return (R_K / (n * self.roughness(2))) ** (1 / 5)

    def kernel_mise(self, n: int, h: float) -> float:
        """Marron and Wand, 1992, theorem 2.1."""
        omega = [self._pairs(a * h * h, 0) for a in range(3)]
        return R_K / (n * h) + (1 - 1 / n) * omega[2] - 2 * omega[1] + omega[0]

    def histogram_mise(self, n: int, h: float) -> float:
        """Of bins of width h, over where they begin."""
        mises = []
        for begin in np.linspace(0, h, 8, endpoint=False):
            p = np.diff(self.cdf(np.arange(-12 + begin, 12 + 2 * h, h)))
            mises.append(((p * (1 - p)).sum() / n - (p * p).sum()) / h + self.roughness(0))
        return float(np.mean(mises))

    def parametric(self) -> float:
        """C^2 of the maximum likelihood estimate of all weights, means and deviations."""
        x = np.linspace(-12, 12, 20_001)
        terms = []
        for w, m, s in self._parts():
            z, p = (x - m) / s, stats.norm.pdf(x, m, s)
            terms += [w * p * z / s, w * p * (z * z - 1) / s]
        normals = [stats.norm.pdf(x, m, s) for _, m, s in self._parts()]
        terms += [p - normals[-1] for p in normals[:-1]]
        d = np.array(terms)
        dx, f = x[1] - x[0], np.maximum(self.pdf(x), 1e-300)
        return float(np.trace(np.linalg.solve(d / f @ d.T * dx, d @ d.T * dx)))


NORMAL = Normals("N(0, 1)", np.ones(1), np.zeros(1), np.ones(1))
TWO = Normals("two normals", np.full(2, 0.5), np.array([-1.5, 1.5]), np.full(2, 0.5))


# ---------------------------------------------------------------------------------------------------- estimators


@dataclass
class Row:
    """An estimator, how it is set for a sample, and what theory says of it.

    Args:
        make: the unfitted model, from the sample (n, 1).
        rate: the power of 1/n, if theory has one.
        constant: C of C n^-rate.
        exact: n -> root MISE at finite n.
        points: of the grid.
        share: of the replications that are run; automatic rules are slower.
        largest: the largest n.
        inside: how far from zero the error is integrated.
    """

    name: str
    make: Callable[[np.ndarray], object]
    rate: float | None = None
    constant: float | None = None
    exact: Callable[[int], float] | None = None
    points: int = SMOOTH
    share: float = 1.0
    largest: int = SIZES[-1]
    inside: float = 7.0
    errors: dict[int, float] = field(default_factory=dict)
    sup: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def rows(f: Normals, neural: int, replications: int) -> list[Row]:
    """All estimators of f."""
    c = np.sqrt(f.parametric())
    if len(f.weights) == 1:
        parametric = [
            Row("Gaussian", lambda x: pl.Gaussian(), 1 / 2, c),
            Row("NamedLaw(law='normal')", lambda x: pl.NamedLaw(law="normal"), 1 / 2, c),
        ]
    else:
        mixture = Row("Mixture(n_components=2)", lambda x: pl.Mixture(n_components=2, random_state=0), 1 / 2, c)
        parametric = [mixture]

    def best_bins(x):
        return pl.Histogram(bins=max(1, round(np.ptp(x) / f.width(len(x)))))

    def best_kernel(x):
        return pl.KernelDensity(bandwidth=float(f.bandwidth(len(x)) / x.std()))

    bins, kernel = (9 / 16 * f.roughness(1)) ** (1 / 6), np.sqrt(5 / 4) * (R_K**4 * f.roughness(2)) ** (1 / 10)
    few = neural / replications
    return [
        *parametric,
        Row("Histogram, best width", best_bins, 1 / 3, bins, lambda n: np.sqrt(f.histogram_mise(n, f.width(n))), FINE),
        Row("Histogram()", lambda x: pl.Histogram(), points=FINE, share=0.1),
        Row("KernelDensity, best h", best_kernel, 2 / 5, kernel, lambda n: np.sqrt(f.kernel_mise(n, f.bandwidth(n)))),
        Row("KernelDensity(bandwidth='silverman')", lambda x: pl.KernelDensity(bandwidth="silverman"), share=0.1),
        Row("KernelDensity(bandwidth='isj')", lambda x: pl.KernelDensity(bandwidth="isj"), share=0.1),
        Row("KernelDensity()", lambda x: pl.KernelDensity(random_state=0), share=0.05, largest=3000),
        Row("KNNDensity, k = n^(4/5) / 4", lambda x: pl.KNNDensity(n_neighbors=_k(x)), share=0.04),
        Row(
            "KNNDensity(estimate='balloon'), from -2 to 2",
            lambda x: pl.KNNDensity(n_neighbors=_k(x), estimate="balloon"),
            share=0.04,
            inside=2.0,
        ),
        Row("Basis, M = 4 n^(1/5)", lambda x: pl.Basis(terms=round(4 * len(x) ** 0.2)), share=0.25),
        Row("Basis()", lambda x: pl.Basis(), share=0.1),
        Row("NeuralCDF()", lambda x: pl.NeuralCDF(random_state=0), share=few, largest=3000),
    ]


def _k(x: np.ndarray) -> int:
    return max(2, round(len(x) ** 0.8 / 4))


def measure(f: Normals, row: Row, replications: int) -> None:
    """Fill in the row's root MISE, and its mean squared largest error of the cumulative, for every n."""
    x = np.linspace(-row.inside, row.inside, row.points + 1)
    dx, truth, cumulative = x[1] - x[0], f.pdf(x), f.cdf(x)
    started = time.process_time()
    times = max(2, round(row.share * replications))
    for n in (n for n in SIZES if n <= row.largest):
        squares, sups = [], []
        for r in range(times):
            sample = f.draw(n, np.random.default_rng([n, r]))
            p = np.exp(row.make(sample).fit(sample).log_prob(x[:, None]))
            gap = (p - truth) ** 2
            squares.append(float(gap.sum() - (gap[0] + gap[-1]) / 2) * dx)
            sums = np.r_[0.0, np.cumsum((p[1:] + p[:-1]) / 2) * dx]
            sups.append(float(np.abs(sums - cumulative).max()) ** 2)
        row.errors[n], row.sup[n] = float(np.sqrt(np.mean(squares))), float(np.mean(sups))
    row.seconds = (time.process_time() - started) / (times * len(row.errors))


def slope(errors: dict[int, float], first: int = 0) -> float:
    """Of log error against log n, from the n that is given."""
    errors = {n: e for n, e in errors.items() if n >= first}
    return float(np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0])


# -------------------------------------------------------------------------------------------------------- report


def _slopes(errors: dict[int, float]) -> str:
    return f"{slope(errors):.3f} ({slope(errors, 1000):.3f})"


def lines(measured: list[Row]) -> list[list[object]]:
    """A line of the table for every row, and one below it for what is exact at finite n."""
    out = []
    for row in measured:
        cells = [f"{row.errors[n]:.4f}" if n in row.errors else "" for n in SIZES]
        theory = constant = ""
        if row.rate:
            theory = f"{-row.rate:.3f}"
            asymptotic = {n: row.constant * n**-row.rate for n in row.errors}
            ratio = _ratio(row.errors, asymptotic)
            constant = f"{ratio * row.constant:.4f} ({row.constant:.4f}: {100 * (ratio - 1):+.1f} %)"
        out.append([row.name, *cells, _slopes(row.errors), theory, constant, f"{1e3 * row.seconds:.0f}"])
        if row.exact:
            exact = {n: row.exact(n) for n in SIZES}
            off = f"measured {100 * (_ratio(row.errors, exact) - 1):+.1f} % off"
            out.append(["... exact at this n", *(f"{v:.4f}" for v in exact.values()), _slopes(exact), "", off, ""])
    return out


def _ratio(errors: dict[int, float], expected: dict[int, float]) -> float:
    """The root of the mean, over n, of the ratio of mean squares: from all replications."""
    return float(np.sqrt(np.mean([(errors[n] / expected[n]) ** 2 for n in errors])))


def empirical_sup(f: Normals, n: int, times: int) -> float:
    """Mean squared largest error of the empirical cumulative."""
    found = []
    for r in range(times):
        u = f.cdf(np.sort(f.draw(n, np.random.default_rng([n, r]))[:, 0]))
        found.append(max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max()) ** 2)
    return float(np.mean(found))


def cumulative_table(f: Normals, measured: list[Row], times: int) -> str:
    """The squared largest error of the learned cumulative beside the empirical one and log log n / (2 n)."""
    row = next(r for r in measured if r.name.startswith("NeuralCDF"))
    values = {"NeuralCDF": row.sup, "the empirical one": {n: empirical_sup(f, n, times) for n in row.sup}}
    values["log log n / (2 n)"] = {n: np.log(np.log(n)) / (2 * n) for n in row.sup}
    body = [[k, *(f"{v[n]:.2e}" for n in row.sup), f"{slope(v):.2f}"] for k, v in values.items()]
    return table([f"mean of sup (F^ - F)^2, {f.name}", *map(str, row.sup), "slope"], body)


COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#2e8b57",
    "#b07d2b",
    "#6a4c93",
    "#008b8b",
    "#c2703d",
    "#5c677d",
    "#a4508b",
    "#7a8b2c",
    "#444444",
    "#e07a5f",
    "#3d5a80",
    "#b56bd6",
)


def picture(found: dict[Normals, list[Row]]) -> str:
    """All rows of all truths as SVG, log error against log n; theory is dashed."""
    width, height, left, top = 420, 330, 52, 34
    names = list(dict.fromkeys(r.name for measured in found.values() for r in measured))
    parts = []
    for i, (f, measured) in enumerate(found.items()):
        x0 = left + i * (width + 70)
        everything = [e for r in measured for e in r.errors.values()]
        low, high = np.log10(min(everything)) - 0.05, np.log10(max(everything)) + 0.05

        def at(n, e, x0=x0, low=low, high=high):
            across = (np.log10(n) - 2) / 2
            return x0 + across * width, top + (high - np.log10(e)) / (high - low) * height

        parts.append(
            f'<text x="{x0}" y="{top - 12}" font-weight="bold">root MISE against n: {f.name} (dashed: theory)</text>'
        )
        parts.append(f'<rect x="{x0}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>')
        for n in SIZES:
            x = at(n, 1.0)[0]
            parts.append(f'<path d="M{x:.1f} {top}V{top + height}" stroke="#eee"/>')
            parts.append(f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{n:,}</text>')
        for e in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
            if low < np.log10(e) < high:
                y = at(100, e)[1]
                parts.append(f'<path d="M{x0} {y:.1f}H{x0 + width}" stroke="#eee"/>')
                parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{e:g}</text>')
        for k, row in enumerate(measured):
            colour = COLOURS[names.index(row.name) % len(COLOURS)]
            if row.rate:
                ends = polyline([at(n, row.constant * n**-row.rate) for n in (SIZES[0], SIZES[-1])])
                parts.append(f'<polyline points="{ends}" fill="none" stroke="{colour}" stroke-dasharray="3 4"/>')
            points = [at(n, e) for n, e in row.errors.items()]
            parts.append(f'<polyline points="{polyline(points)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in points]
            y = top + height + 42 + 17 * k
            name = f"{row.name}: n^{slope(row.errors):.2f}"
            parts.append(f'<rect x="{x0}" y="{y - 8}" width="14" height="4" fill="{colour}"/>')
            parts.append(f'<text x="{x0 + 22}" y="{y - 2}">{name.replace("<", "&lt;")}</text>')
    w = left + len(found) * (width + 70) - 40
    h = top + height + 52 + 17 * max(map(len, found.values()))
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" {style}>'
        f'<rect width="{w}" height="{h}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--neural", type=int, default=5, help="replications of NeuralCDF")
    parser.add_argument("--picture", type=Path, default=Path("build/convergence.svg"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine(), f"{given.replications} replications", sep="; ")
    header = [
        "root MISE",
        *(f"n = {n:,}" for n in SIZES),
        "slope (from n = 1,000)",
        "theory",
        "C over all n (theory)",
        "ms",
    ]
    found = {}
    for f in (NORMAL, TWO):
        found[f] = rows(f, given.neural, given.replications)
        for row in found[f]:
            measure(f, row, given.replications)
        print(f"\n{f.name}\n\n{table(header, lines(found[f]))}")
        print(f"\n{cumulative_table(f, found[f], given.replications)}")
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    given.picture.write_text(picture(found))
    print(f"\npicture: {given.picture}")


if __name__ == "__main__":
    main()
