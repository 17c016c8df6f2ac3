"""Exact inference in discrete networks, against enumeration and against numpy's einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from networks import ASIA, FOLDER, agreeing, contracted, enumerated, factors_of, onto, random_factors
from plausible.errors import DataError
from plausible.families.direct import _elimination as elimination
from plausible.families.direct._bif import parse, read_bif
from plausible.families.direct._elimination import Factor

TIGHT = {"atol": 1e-10, "rtol": 1e-10}
SEEDS = st.integers(0, 10_000)
SMALL = ("asia", "cancer", "earthquake", "survey", "sachs")
LARGE = ("alarm", "child", "insurance", "water")


def incomplete_rows(factors, seed, n=12):
    """Rows of the network; of some columns all cells are unknown, of some none, of others a third."""
    rng = np.random.default_rng(seed)
    rows = elimination.sample(factors, {}, n, rng=torch.Generator().manual_seed(seed))
    share = rng.choice([0.0, 0.3, 1.0], rows.shape[1])
    rows[torch.from_numpy(rng.random(rows.shape) < share)] = torch.nan
    return rows


def mapping(row):
    return {v: int(level) for v, level in enumerate(row.tolist()) if level == level}


@pytest.fixture(scope="module")
def asia():
    return factors_of(parse(ASIA))


# ------------------------------------------------------------------------------------------- against enumeration


@pytest.mark.parametrize("step", [0, 10**9], ids=["all at once", "pattern by pattern"])
@given(seed=SEEDS)
def test_probabilities_of_rows(step, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "STEP", 10**9 - step)
        cards, factors = random_factors(seed)
        joint, rows = enumerated(factors), incomplete_rows(factors, seed)
        keep = tuple(np.random.default_rng(seed).permutation(len(cards))[:2].tolist())
        truth = np.stack([onto(agreeing(joint, row), keep) for row in rows])
        found = elimination.marginal(factors, keep, rows)
        assert found.variables == keep
        np.testing.assert_allclose(found.log_table.exp(), truth, **TIGHT)
        sums = truth.reshape(len(rows), -1).sum(1)
        np.testing.assert_allclose(elimination.log_evidence(factors, rows), np.log(sums), **TIGHT)


@given(seed=SEEDS)
def test_answers_to_single_questions(seed):
    _, factors = random_factors(seed)
    joint, row = enumerated(factors), incomplete_rows(factors, seed)[0]
    truth, evidence = agreeing(joint, row), mapping(row)
    free = [v for v in range(joint.ndim) if v not in evidence]
    keep, others = tuple(free[:2]), tuple(free[2:])
    np.testing.assert_allclose(
        elimination.marginal(factors, keep, evidence).log_table.exp(), onto(truth, keep), **TIGHT
    )
    np.testing.assert_allclose(elimination.log_evidence(factors, evidence), np.log(truth.sum()), **TIGHT)
    for v, p in elimination.posteriors(factors, evidence).items():
        np.testing.assert_allclose(p, onto(truth, (v,)) / truth.sum(), **TIGHT)
    best = elimination.maximise(factors, evidence)
    np.testing.assert_allclose(truth[tuple(best.long())], truth.max(), **TIGHT)
    chosen = elimination.maximise(factors, evidence, over=keep)
    assert chosen[list(others)].isnan().all()
    margin = onto(truth, keep)
    np.testing.assert_allclose(margin[tuple(chosen[list(keep)].long())], margin.max(), **TIGHT)


@pytest.mark.parametrize("step", [0, 10**9], ids=["all at once", "pattern by pattern"])
@given(seed=SEEDS)
def test_what_em_expects(step, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "STEP", 10**9 - step)
        _, factors = random_factors(seed)
        joint, rows = enumerated(factors), incomplete_rows(factors, seed)
        weight = torch.from_numpy(np.random.default_rng(seed).random(len(rows)))
        counts, log_p = elimination.expected_counts(factors, rows, weight)
        truth = [agreeing(joint, row) for row in rows]
        np.testing.assert_allclose(log_p, [np.log(p.sum()) for p in truth], **TIGHT)
        for f, count in zip(factors, counts, strict=True):
            expected = sum(float(w) * onto(p, f.variables) / p.sum() for w, p in zip(weight, truth, strict=True))
            np.testing.assert_allclose(count, expected, **TIGHT)
        for v, p in elimination.posteriors(factors, rows).items():
            np.testing.assert_allclose(p, [onto(t, (v,)) / t.sum() for t in truth], **TIGHT)


@given(seed=SEEDS)
def test_most_likely_rows_and_draws(seed):
    _, factors = random_factors(seed)
    joint, rows = enumerated(factors), incomplete_rows(factors, seed)
    known = ~rows.isnan()
    best = elimination.maximise(factors, rows)
    truth = [agreeing(joint, row).max() for row in rows]
    np.testing.assert_allclose(joint[tuple(best.long().T)], truth, **TIGHT)
    drawn = elimination.sample(factors, rows, rng=torch.Generator().manual_seed(seed))
    assert (joint[tuple(drawn.long().T)] > 0).all()
    for filled in (best, drawn):
        assert torch.equal(filled[known], rows[known])


def test_draws_have_the_posterior(asia, draws):
    joint = enumerated(asia)
    xray, dysp = 6, 7
    row = torch.full((8,), torch.nan, dtype=torch.float64)
    row[xray] = row[dysp] = 0
    truth = agreeing(joint, row)
    n = 20_000
    one_by_one = elimination.sample(asia, row.expand(n, -1), rng=draws)
    for drawn in (one_by_one, elimination.sample(asia, mapping(row), n, rng=draws)):
        counts = np.zeros_like(joint)
        np.add.at(counts, tuple(drawn.long().T.numpy()), 1)
        expected = n * truth / truth.sum()
        possible = expected > 0
        assert counts[~possible].sum() == 0
        statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        assert chi2.sf(statistic, possible.sum() - 1) > 1e-4


def test_rows_in_tiles_of_one(asia, monkeypatch):
    rows = incomplete_rows(asia, 3, n=50)
    rows[torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = torch.nan
    whole = elimination.log_evidence(asia, rows), *elimination.expected_counts(asia, rows)[0]
    monkeypatch.setattr(elimination, "TILE", 1)
    monkeypatch.setattr(elimination, "STEP", 10**9)
    parts = elimination.log_evidence(asia, rows), *elimination.expected_counts(asia, rows)[0]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_table_per_row(asia, draws):
    """What is seen of a variable need not be a level: a likelihood of each, another in every row."""
    rows = incomplete_rows(asia, 1, n=20)
    rows[:, 3] = torch.nan
    seen = torch.rand(20, 2, 2, generator=draws, dtype=torch.float64)
    soft = [*asia, Factor((3, 6), seen.log())]
    counts, log_p = elimination.expected_counts(soft, rows)
    expected = 0.0
    for i in range(20):
        one = [*asia, Factor((3, 6), seen[i].log())]
        truth = agreeing(enumerated(one), rows[i])
        np.testing.assert_allclose(log_p[i], np.log(truth.sum()), **TIGHT)
        expected = expected + onto(truth, (3, 6)) / truth.sum()
    np.testing.assert_allclose(elimination.log_evidence(soft, rows), log_p, **TIGHT)
    np.testing.assert_allclose(counts[-1], expected, **TIGHT)
    with pytest.raises(ValueError, match="evidence of as many rows"):
        elimination.log_evidence(soft, {0: 1})


def test_what_nobody_asks_about_is_left_out(asia):
    """A table p(child | parents) below all that is asked for and known sums to one, and is never touched."""
    broken = [Factor(f.variables, f.log_table * torch.nan, f.child) if f.child == 7 else f for f in asia]
    truth = onto(enumerated(asia), (4,))
    np.testing.assert_allclose(elimination.marginal(broken, (4,), {}).log_table.exp(), truth, **TIGHT)
    assert elimination.marginal(broken, (7,), {}).log_table.isnan().all()


# --------------------------------------------------------------------------------------------- what is refused


def test_the_impossible(asia):
    lung, either = 3, 5
    rows = torch.full((3, 8), torch.nan, dtype=torch.float64)
    rows[1, lung], rows[1, either] = 0, 1  # cancer, but neither cancer nor tuberculosis
    log_p = elimination.log_evidence(asia, rows)
    np.testing.assert_allclose(log_p, [0.0, -np.inf, 0.0], atol=1e-12)
    assert elimination.log_evidence(asia, {lung: 0, either: 1}) == -torch.inf
    for ask in (
        lambda e: elimination.sample(asia, e, rng=torch.Generator()),
        lambda e: elimination.maximise(asia, e),
        lambda e: elimination.maximise(asia, e, over=[0]),
        lambda e: elimination.posteriors(asia, e),
    ):
        with pytest.raises(DataError, match="the evidence of row 1 has probability zero"):
            ask(rows)
        with pytest.raises(DataError, match="the evidence has probability zero"):
            ask({lung: 0, either: 1})
    with pytest.raises(DataError, match="row 1 has probability zero"):
        elimination.expected_counts(asia, rows)


@pytest.mark.parametrize("level", [2, -1, 0.5])
def test_a_level_that_is_none(asia, level):
    rows = torch.full((3, 8), torch.nan, dtype=torch.float64)
    rows[2, 4] = level
    with pytest.raises(DataError, match=rf"variable 4 has the levels 0 to 1, got {level:g} in row 2"):
        elimination.log_evidence(asia, rows)
    with pytest.raises(DataError, match="variable 4 has the levels 0 to 1"):
        elimination.log_evidence(asia, {4: level})


def test_questions_that_make_no_sense(asia):
    with pytest.raises(ValueError, match="not in the evidence"):
        elimination.marginal(asia, (1,), {1: 0})
    with pytest.raises(ValueError, match="different variables"):
        elimination.marginal(asia, (1, 1), {})
    with pytest.raises(ValueError, match="no table has the variable 9"):
        elimination.marginal(asia, (9,), {})
    with pytest.raises(ValueError, match="at least 8 columns, got 5"):
        elimination.log_evidence(asia, torch.zeros(2, 5))


def grid(side):
    """Neighbours in a square share a table: eliminating any order joins `side` variables at least."""
    number = np.arange(side * side).reshape(side, side)
    pairs = [*zip(number[1:].flat, number[:-1].flat, strict=True)]
    pairs += [*zip(number[:, 1:].flat, number[:, :-1].flat, strict=True)]
    return [tuple(map(int, pair)) for pair in pairs]


def test_too_large_is_refused_before_it_starts():
    pairs = grid(30)
    with pytest.raises(DataError, match=r"would need tables of [\d,]+ .B, the largest over [\d,]+ .* limit is 2 GB"):
        elimination.plan([2] * 900, pairs)
    factors = [Factor(pair, torch.zeros(2, 2, dtype=torch.float64)) for pair in pairs]
    with pytest.raises(DataError, match="the limit is 2 GB"):
        elimination.log_evidence(factors, {})
    with pytest.raises(DataError, match="the limit is 2 GB"):
        elimination.sample(factors, torch.full((5, 900), torch.nan), rng=torch.Generator())


def test_evidence_makes_a_large_network_small():
    """Rows that are known but for a few cells are easy, whatever the network, though all of them together are not."""
    pairs, limit = grid(20), 100_000
    rng = torch.Generator().manual_seed(0)
    factors = [Factor(pair, torch.rand(2, 2, generator=rng, dtype=torch.float64).log()) for pair in pairs]
    with pytest.raises(DataError, match="the limit is 100 kB"):
        elimination.log_evidence(factors, {}, limit=limit)
    rows = (torch.rand(6, 400, generator=rng) < 0.5).double()
    complete = elimination.log_evidence(factors, rows, limit=limit)
    rows[torch.rand(rows.shape, generator=rng) < 0.2] = torch.nan
    best = elimination.maximise(factors, rows, limit=limit)
    of_best = elimination.log_evidence(factors, best, limit=limit)
    found = elimination.log_evidence(factors, rows, limit=limit)
    assert ((complete <= of_best + 1e-9) & (of_best < found)).all()
    one = rows.clone()
    one[:, 0] = torch.nan
    halves = [torch.where(torch.arange(400) == 0, torch.tensor(k, dtype=torch.float64), one) for k in (0.0, 1.0)]
    both = torch.stack([elimination.log_evidence(factors, x, limit=limit) for x in halves]).logsumexp(0)
    torch.testing.assert_close(elimination.log_evidence(factors, one, limit=limit), both, rtol=1e-12, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ the order


@given(seed=SEEDS)
def test_the_plan_foretells_the_tables(seed):
    cards, factors = random_factors(seed)
    keep = set(range(len(cards))[:: seed % 3 + 1])
    found = elimination.plan(cards, [f.variables for f in factors], keep)
    assert sorted(found.order) == sorted(set(range(len(cards))) - keep)
    scopes, sizes = [set(f.variables) for f in factors], []
    for v in found.order:
        joined = set().union(*(s for s in scopes if v in s))
        scopes = [s for s in scopes if v not in s] + [joined - {v}]
        sizes.append(int(np.prod([cards[u] for u in joined])))
    rest = int(np.prod([cards[u] for u in keep]))
    assert found.largest == max([*sizes, rest])
    assert found.total == max(sum(sizes), found.largest)
    assert found.bytes >= 8 * found.largest


def test_orders_that_are_known():
    chain = elimination.plan([3] * 1000, [(i, i + 1) for i in range(999)])
    assert chain.largest == 9
    tree = elimination.plan([2] * 500, [(i, (i - 1) // 2) for i in range(1, 500)])
    assert tree.largest == 4
    assert elimination.plan([2] * 25, grid(5)).largest <= 2**6  # treewidth 5


# ------------------------------------------------------------------------------------------ networks from files


@pytest.mark.data
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_against_enumeration(name):
    factors = factors_of(read_bif(FOLDER / f"{name}.bif"))
    joint, rows = enumerated(factors), incomplete_rows(factors, 5, n=40)
    truth = [agreeing(joint, row) for row in rows]
    np.testing.assert_allclose(elimination.log_evidence(factors, rows), np.log([p.sum() for p in truth]), **TIGHT)
    counts, _ = elimination.expected_counts(factors, rows)
    for f, count in zip(factors, counts, strict=True):
        np.testing.assert_allclose(count, sum(onto(p, f.variables) / p.sum() for p in truth), **TIGHT)
    best = elimination.maximise(factors, rows)
    np.testing.assert_allclose(joint[tuple(best.long().T)], [p.max() for p in truth], **TIGHT)


@pytest.mark.data
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_against_einsum(name):
    factors = factors_of(read_bif(FOLDER / f"{name}.bif"))
    rng = np.random.default_rng(0)
    rows = elimination.sample(factors, {}, 6, rng=torch.Generator().manual_seed(1))
    for row in rows[:1] if name == "water" else rows:
        order = rng.permutation(len(factors)).tolist()
        evidence, keep = {v: int(row[v]) for v in order[:6]}, tuple(order[6:8])
        truth = contracted(factors, keep, evidence)
        found = elimination.marginal(factors, keep, evidence)
        np.testing.assert_allclose(found.log_table.exp(), truth, atol=1e-12, rtol=1e-10)
        beliefs = elimination.posteriors(factors, evidence)
        for i, v in enumerate(keep):
            np.testing.assert_allclose(beliefs[v], truth.sum(1 - i) / truth.sum(), **TIGHT)


@pytest.mark.data
def test_rows_of_alarm_against_one_at_a_time():
    factors = factors_of(read_bif(FOLDER / "alarm.bif"))
    rng = torch.Generator().manual_seed(0)
    rows = elimination.sample(factors, {}, 200, rng=rng)
    rows[torch.rand(rows.shape, generator=rng) < 0.3] = torch.nan
    alone = [contracted(factors, (), mapping(row)) for row in rows[:20]]
    found = elimination.log_evidence(factors, rows)
    np.testing.assert_allclose(found[:20], np.log(alone), **TIGHT)
    np.testing.assert_allclose(found, elimination.expected_counts(factors, rows)[1], **TIGHT)
    best = elimination.maximise(factors, rows)
    single = torch.stack([elimination.maximise(factors, mapping(row)) for row in rows[:20]])
    torch.testing.assert_close(
        elimination.log_evidence(factors, best[:20]), elimination.log_evidence(factors, single), rtol=1e-12, atol=1e-10
    )
    other = elimination.sample(factors, rows, rng=rng)
    assert (elimination.log_evidence(factors, best) >= elimination.log_evidence(factors, other) - 1e-9).all()


@pytest.mark.data
@pytest.mark.parametrize("name", ["alarm", "insurance"])
def test_frequencies_of_draws(name):
    factors = factors_of(read_bif(FOLDER / f"{name}.bif"))
    n = 50_000
    rows = elimination.sample(factors, {}, n, rng=torch.Generator().manual_seed(2))
    for v, p in elimination.posteriors(factors, {}).items():
        error = (torch.bincount(rows[:, v].long(), minlength=len(p)) / n - p).abs()
        assert (error <= 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()
