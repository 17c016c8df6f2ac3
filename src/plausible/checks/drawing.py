"""Samples against the density: drawn from the model, they must be distributed as its own log_prob says."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench, encoded
from plausible.randomness import generator

SAMPLES = 8000
FEWER_SAMPLES = 3000  # where the mass is itself an estimate, with an error that must stay the smaller one
LEVEL = 1e-4  # probability that a sound model fails one of the tests
FEWEST = 10  # expected samples in a cell; rarer cells are pooled


@check
def samples_agree_with_the_density(bench: Bench) -> str:
    """Samples fall into each part of the space as often as the density says, at level 1e-4 and a fixed seed.

    A chi-square test over about a hundred cells whose mass comes from the density (of a bound: from the
    importance weights), and, where the density is exact, a test of the mean log_prob of samples against its
    expectation, which is where a wrong temperature shows first.
    """
    found = []
    for case in bench.with_density():
        model, (atlas, log_p, mass) = bench.fitted(case), bench.covered(case)
        kind = model.likelihood_kind_
        mass = mass / mass.sum(1).mean()
        S = model.sample(FEWER_SAMPLES if bench.is_bound(case) else SAMPLES, random_state=bench.random_state)
        p = _cells_test(atlas, mass, model.space_.encode(S), 0.02 if kind == "estimate" else 0.0)
        if not p >= LEVEL:
            raise Broken(f"on {case.name}, samples fall into cells otherwise than the density says (p = {p:.1g})")
        found.append(f"{case.name}: p = {p:.2g}")
        if kind == "exact":
            p = _typical_test(log_p, mass, model.log_prob(S))
            if not p >= LEVEL:
                raise Broken(f"on {case.name}, samples are more or less plausible than they should be (p = {p:.1g})")
    return ", ".join(found)


@check
def draws_given_a_part_agree_with_the_density(bench: Bench) -> str:
    """Cells drawn given the others leave those as they are and follow the density.

    Blank cells of the model's own samples, in several patterns, and fill them: if what fills them comes from
    p(missing | known), the result is distributed as the model again, by the tests that samples are held to.
    """
    in_order = bench.traits.given == "in_order"
    if bench.traits.given != "exact" and not in_order:
        raise NotApplicable("it draws nothing given a part exactly")
    found = []
    for case in bench.some("examples of several dimensions", lambda s: s.dims > 1 and s.type != "text"):
        model = bench.fitted(case)
        if model.likelihood_kind_ != "exact":
            continue
        z, _ = encoded(model, model.sample(SAMPLES, random_state=bench.random_state))
        z = z.flatten(1)
        blank = _patterns(z, bench.random_state)
        if in_order:  # the last dimensions only
            blank[:, model.module_.order] = blank.sort(1).values
        holes = torch.where(blank, torch.nan, z).reshape(-1, *model.space_.shape)
        rng = generator(bench.random_state + 1)  # not that of the samples, which the known cells came from
        with torch.no_grad():
            drawn = model._evaluator().sample_given(holes, None, rng=rng).flatten(1)
            S = model.space_.decode(model.transforms_.inverse(drawn.reshape(-1, *model.space_.shape), rng))
        if not torch.equal(drawn[~blank], z[~blank]):
            raise Broken(f"on {case.name}, cells that were known have been changed")
        atlas, log_p, mass = bench.covered(case)
        p = _cells_test(atlas, mass / mass.sum(1).mean(), model.space_.encode(S), 0.0)
        p = min(p, _typical_test(log_p, mass, model.log_prob(S)))
        if not p >= LEVEL:
            raise Broken(f"on {case.name}, completed samples are distributed otherwise than the density (p = {p:.1g})")
        found.append(f"{case.name}: p = {p:.2g}")
    if not found:
        raise NotApplicable("its likelihood is exact on no examples of several dimensions")
    return ", ".join(found)


def _patterns(z: torch.Tensor, seed: int, how_many: int = 4) -> torch.Tensor:
    """Return which cells to blank (n, D): a few patterns, in each of which some are blank and some are not."""
    patterns = torch.rand(how_many, z.shape[1], generator=generator(seed)) < 0.5
    patterns[:, 0], patterns[: how_many // 2, 0], patterns[: how_many // 2, 1] = True, False, True
    patterns[how_many // 2 :, 1] = False
    return patterns[torch.arange(len(z)) % how_many]


def _cells_test(atlas, mass: np.ndarray, codes, tolerance: float) -> float:
    """p-value of a chi-square test: masses (R, M) of the atlas's points against codes of samples."""
    both = np.concatenate([atlas.cells(atlas.codes), atlas.cells(codes)])
    _, cell = np.unique(both, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    n_cells, n_points = cell.max() + 1, len(atlas.codes)
    where = np.broadcast_to(cell[:n_points].reshape(atlas.log_q.shape), mass.shape)
    shares = np.stack([np.bincount(w, m, n_cells) for w, m in zip(where, mass, strict=True)])  # (R, cells)
    observed = np.bincount(cell[n_points:], minlength=n_cells).astype(float)
    n = observed.sum()
    expected = n * shares.mean(0)
    variance = n**2 * shares.var(0, ddof=1) / len(shares) if len(shares) > 1 else np.zeros(n_cells)
    rare = expected < FEWEST

    def pooled(x):
        return np.append(x[~rare], x[rare].sum()) if rare.any() else x

    observed, expected, variance = pooled(observed), pooled(expected), pooled(variance)
    spread = np.maximum(expected, 1.0) + variance + (tolerance * n * np.sqrt(expected / n)) ** 2
    statistic = ((observed - expected) ** 2 / spread).sum()
    return float(stats.chi2.sf(statistic, max(len(expected) - 1, 1)))


def _typical_test(log_p: np.ndarray, mass: np.ndarray, of_samples: np.ndarray) -> float:
    """p-value of the mean log_prob of samples, against its expectation under the density."""
    log_p = np.where(mass > 0, log_p, 0.0)
    total = mass.sum(1)
    means = (mass * log_p).sum(1) / total
    variance = (mass * (log_p - means.mean()) ** 2).sum() / total.sum()
    error = variance / len(of_samples) + (means.var(ddof=1) / len(means) if len(means) > 1 else 0.0)
    off = abs(of_samples.mean() - means.mean()) - 1e-6
    return float(2 * stats.norm.sf(max(off, 0.0) / np.sqrt(error + 1e-300)))
