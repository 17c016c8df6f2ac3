"""Random numbers as arguments: noise that belongs to its row, and global generators nobody touches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats

from plausible.randomness import RowNoise, generator, mix, normal, row_hash, seed_of, uniform

ROWS = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LIKE = torch.zeros((), dtype=torch.float64)
LEVEL = 1e-3  # of the tests, whose seeds are fixed


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


# ------------------------------------------------------------------------------------------------------- row noise


@pytest.mark.parametrize(
    "rows",
    [ROWS, torch.arange(2000)[:, None], torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 11)],
    ids=["reals", "counting", "bits"],
)
def test_row_noise_is_uniform_whatever_the_rows(rows):
    u = RowNoise(rows).uniform((len(rows), 20)).numpy()
    assert 0 < u.min() and u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > LEVEL
    for column in (u[:, 0], u[:, 19], u[0], u[-1]):
        assert stats.kstest(column, "uniform").pvalue > LEVEL
    pairs = np.histogram2d(u[:, :-1].ravel(), u[:, 1:].ravel(), 16, [[0, 1], [0, 1]])[0]
    assert stats.chisquare(pairs.ravel()).pvalue > LEVEL


def test_neighbours_seeds_and_calls_are_uncorrelated():
    n, bound = len(ROWS), 4 / np.sqrt(len(ROWS) * 10)  # four standard errors
    noise = RowNoise(ROWS, seed=0)
    first, second = noise.uniform((n, 10)), noise.uniform((n, 10))
    draws = [first, second, *(RowNoise(ROWS, seed).uniform((n, 10)) for seed in (1, 2, 3, 1 << 40))]
    draws += [RowNoise(ROWS + 1e-12).uniform((n, 10)), first.roll(1, 0), first.roll(1, 1)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(correlation(a, b)) < bound


def test_noise_is_a_function_of_the_row_alone():
    whole = RowNoise(ROWS, seed=7).uniform((len(ROWS), 3, 2))
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(1))
    assert torch.equal(RowNoise(ROWS[order], seed=7).uniform((len(ROWS), 3, 2)), whole[order])
    assert torch.equal(RowNoise(ROWS[5:9], seed=7).uniform((4, 3, 2)), whole[5:9])
    assert torch.equal(RowNoise(ROWS.reshape(-1, 1, 5), seed=7).uniform((len(ROWS), 3, 2)), whole)


def test_a_wider_draw_begins_with_the_narrow_one():
    assert torch.equal(RowNoise(ROWS).uniform((len(ROWS), 2)), RowNoise(ROWS).uniform((len(ROWS), 7))[:, :2])


def test_equal_rows_get_equal_noise():
    integers = torch.arange(6).reshape(3, 2)
    expected = row_hash(integers)
    for dtype in (torch.uint8, torch.int32, torch.float32, torch.float64):
        assert torch.equal(row_hash(integers.to(dtype)), expected)
    assert row_hash(torch.tensor([[0.0, 1.0]])) == row_hash(torch.tensor([[-0.0, 1.0]]))
    missing = torch.tensor([[torch.nan, 1.0]], dtype=torch.float64)
    other = missing.copysign(torch.tensor([[-1.0, 1.0]]))  # the NaN that 0/0 gives on most machines
    assert not torch.equal(missing.view(torch.int64), other.view(torch.int64))
    assert row_hash(missing) == row_hash(other) != row_hash(torch.tensor([[0.0, 1.0]]))


def test_other_rows_get_other_hashes():
    grid = torch.cartesian_prod(*[torch.arange(8.0)] * 5)
    assert len(row_hash(grid).unique()) == len(grid)  # 32,768 of them, permutations of one another among them


def test_every_bit_of_a_row_flips_every_bit_of_its_hash():
    """The avalanche criterion: with probability one half, here within eight standard errors of it."""
    bits = torch.randint(-(2**62), 2**62, (4000,), generator=torch.Generator().manual_seed(0))
    places = 1 << torch.arange(63)
    for flip in places:
        changed = mix(bits) ^ mix(bits ^ flip)
        share = ((changed[:, None] & places) != 0).double().mean(0)
        assert (share - 0.5).abs().max() < 8 * 0.5 / len(bits) ** 0.5


def test_noise_for_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="expected noise for 2000 rows, asked for 3"):
        RowNoise(ROWS).uniform((3, 1))


@pytest.mark.parametrize("source", ["rows", "generator"])
def test_uniform_and_normal_have_their_laws_and_the_dtype_asked_for(source):
    def rng():
        return RowNoise(ROWS) if source == "rows" else generator(0)

    for dtype in (torch.float32, torch.float64):
        u, z = (f(rng(), (len(ROWS), 4), LIKE.to(dtype)) for f in (uniform, normal))
        assert u.dtype == z.dtype == dtype
        assert stats.kstest(u.double().numpy().ravel(), "uniform").pvalue > LEVEL
        assert stats.kstest(z.double().numpy().ravel(), "norm").pvalue > LEVEL


def test_a_single_precision_uniform_stays_below_one():
    class Almost(RowNoise):
        def uniform(self, shape):
            return torch.full(shape, 1 - 2.0**-54, dtype=torch.float64)

    assert uniform(Almost(ROWS), (len(ROWS), 1), torch.zeros((), dtype=torch.float32)).max() < 1


@pytest.mark.parametrize("draw", [uniform, normal])
def test_no_generator_is_not_the_global_one(draw):
    with pytest.raises(TypeError, match="torch.Generator or RowNoise; got None"):
        draw(None, (2, 2), LIKE)


# ----------------------------------------------------------------------------------------------------------- seeds


def test_a_seed_comes_from_every_kind_of_random_state():
    assert seed_of(5) == seed_of(np.int64(5)) == 5
    assert 0 <= seed_of(-1) < 2**63
    kinds = (np.random.default_rng, np.random.RandomState, lambda s: torch.Generator().manual_seed(s))
    for make in kinds:
        a, b = make(0), make(0)
        first, second = seed_of(a), seed_of(a)
        assert first == seed_of(b) and first != second and 0 <= first < 2**63
    assert seed_of(None) != seed_of(None)


@pytest.mark.parametrize("odd", ["7", 1.5, [1]])
def test_other_things_are_no_seed(odd):
    with pytest.raises(ValueError, match="random_state must be None, an integer or a generator"):
        seed_of(odd)


def test_a_generator_follows_its_seed():
    a, b, c = (torch.rand(5, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_global_generators_are_neither_read_nor_changed():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()

    before = states()

    def draw():
        noise = RowNoise(ROWS)
        return [*(f(r, (len(ROWS), 2), LIKE) for f in (uniform, normal) for r in (noise, generator(3)))]

    a = draw()
    generator(None)
    assert states() == before
    saved = torch.random.get_rng_state()
    torch.manual_seed(999)
    b = draw()
    torch.random.set_rng_state(saved)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
