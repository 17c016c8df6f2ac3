"""Context tables against counts by hand, a slow implementation in dictionaries, and sums over all there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from plausible import load
from plausible.data.stream import Stream
from plausible.families.direct import context_table
from plausible.families.direct._contexts import FITS, Trie, distinct, fold, hats
from plausible.families.direct.context_table import ContextTable
from plausible.options import OptionError
from plausible.space import Text
from plausible.uses import given

WORDS = ["abba", "ab", "", "ba", "baab", "aaaa", "bb", "abab", "a", "babb"] * 3
SMOOTHINGS = ("kneser_ney", "absolute", "ppm")


def strings(alphabet: str, longest: int) -> list[str]:
    return ["".join(s) for k in range(longest + 1) for s in itertools.product(alphabet, repeat=k)]


def chain_images(n: int, shape: tuple[int, ...], levels: int = 2, seed: int = 0) -> np.ndarray:
    """Images (n, *shape) in which each value is mostly the one before it."""
    rng = np.random.default_rng(seed)
    moves = rng.random((n, math.prod(shape))) < 0.2
    return (np.cumsum(moves * rng.integers(1, levels, moves.shape), 1) % levels).reshape(n, *shape).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------- the mass


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [0, 1, 3, "auto"])
def test_all_strings_add_up_to_one(smoothing, order):
    model = ContextTable(order=order, smoothing=smoothing).fit(WORDS)
    assert np.exp(model.log_prob(strings("ab", 4))).sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (3, 1, 2), (2, 2, 3)])  # HW, CHW, HWC
def test_all_images_add_up_to_one(shape, position):
    levels = 3 if math.prod(shape) <= 6 else 2
    model = ContextTable(position=position).fit(chain_images(80, shape, levels))
    every = np.array(list(itertools.product(range(levels), repeat=math.prod(shape))), dtype=np.uint8)
    assert np.exp(model.log_prob(every.reshape(-1, *shape))).sum() == pytest.approx(1, abs=1e-10)


def test_all_rows_of_columns_with_different_levels_add_up_to_one(rng):
    X = pd.DataFrame({"a": rng.choice(list("xyz"), 60), "b": rng.integers(0, 2, 60), "c": rng.integers(0, 4, 60)})
    every = pd.DataFrame(itertools.product("xyz", range(2), range(4)), columns=list("abc"))
    model = ContextTable().fit(X)
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1, abs=1e-10)
    with pytest.raises(OptionError, match="same levels"):
        ContextTable(position=False).fit(X)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_windows_of_a_long_text_add_up_to_one_and_short_ones_are_marginals(smoothing):
    text = "abbaabcabcabbaabbcabcabbabaacb" * 5
    model = ContextTable(smoothing=smoothing, order=2, space=Text.of("abc", 4, end=False)).fit(text)
    windows = {"".join(s): None for s in itertools.product("abc", repeat=4)}
    log_p = dict(zip(windows, model.log_prob(list(windows)), strict=True))
    assert sum(math.exp(v) for v in log_p.values()) == pytest.approx(1, abs=1e-10)
    short = sum(math.exp(v) for s, v in log_p.items() if s.startswith("ab"))
    assert math.log(short) == pytest.approx(model.log_prob(["ab"])[0])
    assert model.log_prob(text).sum() == pytest.approx(sum(model.log_prob([text[i : i + 4] for i in range(0, 150, 4)])))


# ---------------------------------------------------------------------------------------------------- the smoothing


def test_kneser_ney_counted_by_hand():
    model = ContextTable(order=1, smoothing="kneser_ney").fit(["ab", "ab", "ac", "acb"])
    (d1, d2, _, t, e), (f1, f2, f3, u, v) = model.module_.laws.tolist()
    # At the beginning: a 4; after a: b 2, c 2; after b: END 2; after c: END 1, b 1 (which ends of itself, at length 3).
    # Contexts that each continues: a 1, b 2, c 1, END 2.
    s = t + 4 * e
    back = (s + 2 * d1 + 2 * d2) / (6 + s) / 4
    root = {"a": (1 - d1) / (6 + s) + back, "b": (2 - d2) / (6 + s) + back}
    root |= {"c": root["a"], "END": root["b"]}
    assert sum(root.values()) == pytest.approx(1)
    a = (4 - f3 + (u + v + f3) * root["a"]) / (4 + u + v)
    a_b = a_c = (2 - f2 + (u + 2 * v + 2 * f2) * root["b"]) / (4 + u + 2 * v)
    a_c += (u + 2 * v + 2 * f2) * (root["c"] - root["b"]) / (4 + u + 2 * v)
    b_end = (2 - f2 + (u + v + f2) * root["END"]) / (2 + u + v)
    c_b = (1 - f1 + (u + 2 * v + 2 * f1) * root["b"]) / (2 + u + 2 * v)
    c_a = (u + 2 * v + 2 * f1) * root["a"] / (2 + u + 2 * v)
    found = np.exp(model.log_prob(["ab", "acb", "aca"]))
    assert found == pytest.approx([a * a_b * b_end, a * a_c * c_b, a * a_c * c_a])


def by_dictionaries(words, order, laws, continuation, levels, length):
    """Return log p of a word, from counts in dictionaries and recursion: slow and plain."""

    def positions(word):
        symbols = [*word, None][:length]
        for d, x in enumerate(symbols):
            yield tuple(reversed(["<", *word[:d]]))[:order], x

    counts = [Counter() for _ in range(order + 1)]
    for context, x in (p for w in words for p in positions(w)):
        counts[len(context)][context, x] += 1
    for m in reversed(range(order)):
        for (context, x), n in counts[m + 1].items():
            counts[m][context[:-1], x] += 1 if continuation else n

    def p(context, x):
        if len(context) == 0:
            shorter = 1 / levels
        else:
            shorter = p(context[:-1], x)
        here = {y: n for (c, y), n in counts[len(context)].items() if c == context}
        if not here:
            return shorter
        *discounts, t, e = laws[len(context)]
        discount = {y: discounts[min(n, 3) - 1] for y, n in here.items()}
        strength = t + e * len(here)
        own = here[x] - discount[x] if x in here else 0
        return (own + (strength + sum(discount.values())) * shorter) / (sum(here.values()) + strength)

    return lambda word: sum(math.log(p(context, x)) for context, x in positions(word))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_probabilities_are_those_of_plain_recursion(smoothing):
    words = ["abba", "ab", "ba", "bab", "", "aab"]
    model = ContextTable(order=3, smoothing=smoothing).fit(words)
    slow = by_dictionaries(words, 3, model.module_.laws.tolist(), smoothing != "absolute", 3, 4)
    every = strings("ab", 4)
    assert np.allclose(model.log_prob(every), [slow(w) for w in every], atol=1e-12)


@pytest.mark.parametrize("smoothing", ["kneser_ney", "absolute"])
def test_leave_one_out_is_what_is_left_when_one_is_left_out(smoothing, monkeypatch):
    kept = []
    fitted = context_table._ContextTable._fitted
    monkeypatch.setattr(
        context_table._ContextTable, "_fitted", lambda *a: kept.append((a[1], fitted(*a))) or kept[-1][1]
    )
    words = ["abba", "ab", "ba", "bab", "", "aab"]
    model = ContextTable(order=2, smoothing=smoothing).fit(words)
    _, (trie, laws, found) = kept[-1]
    total = 0.0
    for r in range(len(trie.rows)):
        counts = trie.counts.clone()
        counts[r] -= 1
        left = counts > 0
        less = Trie(
            trie.rows[left], counts[left], trie.groups, trie.base, trie.levels, trie.stop, trie.continuation
        )  # fmt: skip
        module = model.module_
        module.nodes, module.pairs = less.nodes, less.pairs
        module.share, module.back = less.ratios(laws)
        total += float(trie.counts[r] * module._p(trie.rows[r : r + 1]).log())
    assert found == pytest.approx(total / float(trie.counts.sum()), abs=1e-12)


def test_parameters_are_at_an_optimum_of_leave_one_out(rng):
    words = ["".join(rng.choice(list("abcd"), rng.integers(1, 9), p=[0.4, 0.3, 0.2, 0.1])) for _ in range(200)]
    kept = {}
    for order in (1, 2):
        model = ContextTable(order=order, smoothing="kneser_ney")
        original = context_table._ContextTable._fitted

        def spy(*a, original=original):
            kept["trie"] = original(*a)
            return kept["trie"]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(context_table._ContextTable, "_fitted", spy)
            model.fit(words)
        trie, laws, best = kept["trie"]
        for factor in (0.7, 1.3):
            for m, i in itertools.product(range(order + 1), range(5)):
                other = laws.clone()
                other[m, i] = min(other[m, i] * factor, (1, 2, 3, math.inf, math.inf)[i])
                assert trie.leave_one_out(other, model.module_.even) < best + 1e-4


def test_auto_takes_a_context_that_reaches_the_cause_and_no_longer_one(rng):
    X = rng.integers(0, 2, (3000, 8))
    X[:, 2:] = (X[:, 2:] < 0) | (rng.random((3000, 6)) < 0.05)
    for d in range(2, 8):
        X[:, d] ^= X[:, d - 2]
    model = ContextTable(position=False).fit(X)
    assert len(model.module_.laws) - 1 == 2
    entropy = 2 * math.log(2) - 6 * (0.05 * math.log(0.05) + 0.95 * math.log(0.95))
    assert -model.score(X) == pytest.approx(entropy, abs=0.03)


def test_half_counts_lie_between_their_neighbours():
    h = hats(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0], dtype=torch.float64))
    expected = [[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]
    assert h.tolist() == expected


# ---------------------------------------------------------------------------------------------------------- counting


def test_digits_that_do_not_fit_into_one_key_are_told_apart(rng):
    rows = rng.integers(0, 300, (500, 3)).repeat(5, 1)  # 15 digits of 300: 300^15 is beyond any integer
    rows[::2] = rows[1::2]
    digits = torch.from_numpy(rows)
    key, span = fold(digits.T, [300] * 15)
    assert 300.0**15 > FITS > span
    _, which = distinct(key, span)
    _, expected = np.unique(rows, axis=0, return_inverse=True)
    pairs = {(int(a), int(b)) for a, b in zip(which, expected, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 250


def test_a_context_longer_than_a_key_works(rng):
    X = rng.integers(0, 256, (40, 5, 5)).astype(np.uint8)
    model = ContextTable(order=12).fit(X)
    assert len(model.module_.laws) == 13
    assert np.isfinite(model.log_prob(X)).all() and model.score(X) > model.score(255 - X)


def assert_same(a, b):
    states = [m.state_dict() for m in (a, b)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize("X", [WORDS, chain_images(60, (3, 4), 3)], ids=["strings", "images"])
def test_counting_in_two_halves_is_counting_at_once(X, monkeypatch):
    monkeypatch.setattr(context_table, "AT_ONCE", 50)  # many chunks
    model = ContextTable().fit(X)
    z = model.transforms_(model.space_.encode(X))[0].double()
    other = model._seeded_build(model.space_, 0)
    for part in z[:17], z[17:]:
        other.summarise(part, None)
    other.update()
    assert_same(model.module_, other)


def test_a_stream_is_fitted_as_the_whole(tmp_path):
    X = chain_images(70, (7,), 3)
    np.save(tmp_path / "x.npy", X)
    whole, streamed = ContextTable().fit(X), ContextTable().fit(Stream(tmp_path / "x.npy", chunk=16))
    assert_same(whole.module_, streamed.module_)


def test_a_weight_of_two_is_a_row_twice():
    weight = np.arange(len(WORDS)) % 3
    copied = [w for w, k in zip(WORDS, weight, strict=True) for _ in range(k)]
    space = ContextTable().fit(WORDS).space_
    weighted = ContextTable(space=space).fit(WORDS, sample_weight=weight)
    assert_same(weighted.module_, ContextTable(space=space).fit(copied).module_)


def test_fractions_as_weights_still_make_a_distribution(rng):
    model = ContextTable(order=2).fit(WORDS, sample_weight=rng.random(len(WORDS)) * 2.5)
    assert np.exp(model.log_prob(strings("ab", 4))).sum() == pytest.approx(1, abs=1e-10)


# ------------------------------------------------------------------------------------------------- step by step, files


@pytest.mark.parametrize("X", [WORDS, chain_images(60, (2, 3, 3), 3)], ids=["strings", "colour images"])
def test_steps_multiply_to_the_whole(X):
    model = ContextTable(order=3).fit(X)
    module = model.module_
    z = model.space_.encode(X).double().flatten(1)
    by_steps = module.heads.log_prob(module.conditionals(z), z).sum(1)
    assert np.allclose(by_steps, model.log_prob(X), atol=1e-12)
    state, value, total = module.start(len(z)), None, 0.0
    for d in state.order:
        params = module.step(state, value)
        assert torch.allclose(params.logsumexp(1), torch.zeros(1, dtype=torch.float64), atol=1e-12)
        value = z[:, d]
        total = total + torch.where(value.isnan(), 0.0, params.gather(1, value.nan_to_num().long()[:, None])[:, 0])
    assert np.allclose(total, model.log_prob(X), atol=1e-12)


def test_channels_of_a_pixel_see_each_other(rng):
    first = rng.integers(0, 2, (300, 5, 5))
    X = np.stack([first, 1 - first, first], 3).astype(np.uint8)  # two channels follow from the first
    model = ContextTable(order=2).fit(X)
    assert -model.score(X) == pytest.approx(25 * math.log(2), abs=0.1)


def test_a_long_text_is_written_in_words_it_has_read():
    text = "the cat sat on the mat and the dog sat on the cat and the rat ran to the hat. " * 40
    model = ContextTable(space=Text.of(sorted(set(text)), 200, end=False)).fit(text)
    words = model.sample(1, random_state=0)[0].split()[1:-1]
    assert len(words) > 20 and np.mean([w in text.split() for w in words]) > 0.9


def test_files_keep_the_table(tmp_path):
    model = ContextTable().fit(WORDS)
    model.save(tmp_path / "m.plausible")
    again = load(tmp_path / "m.plausible")
    assert_same(model.module_, again.module_)
    assert again.sample(5, random_state=1) == model.sample(5, random_state=1)


# ---------------------------------------------------------------------------------------------------- the rest, given


def test_the_lower_part_of_an_image_given_the_upper():
    """Against all completions: their probabilities given the first row, and how often each is drawn."""
    X = chain_images(200, (2, 3))
    model = ContextTable().fit(X)
    upper = X[3, :1]
    every = np.array(list(itertools.product((0, 1), repeat=3)), dtype=np.uint8).reshape(8, 1, 3)
    whole = np.concatenate([np.repeat(upper[None], 8, 0), every], 1)
    p = np.exp(model.log_prob(whole))
    known = np.array([[True] * 3, [False] * 3])
    assert np.allclose(given.log_prob(model, whole, known), np.log(p / p.sum()), atol=1e-12)
    drawn = given.sample(model, np.repeat(whole[:1], 4000, 0), mask=~known, random_state=0)
    assert (drawn[:, 0] == upper).all()
    shares = np.bincount(drawn[:, 1] @ [4, 2, 1], minlength=8) / 4000
    assert chisquare(shares * 4000, p / p.sum() * 4000).pvalue > 1e-3


def test_the_rest_of_a_string_given_its_beginning():
    model = ContextTable(order=2).fit(WORDS)
    z = model.space_.encode(["ab"] * 3000).double()
    z[:, 2:] = torch.nan  # also its END
    rng = torch.Generator().manual_seed(0)
    drawn = model.space_.decode(model.module_.sample_given(z, None, rng=rng))
    every = ["ab" + s for s in strings("ab", 2)]
    p = np.exp(model.log_prob(every))
    counts = Counter(drawn)
    assert set(counts) <= set(every)
    assert chisquare([counts[s] for s in every], p / p.sum() * 3000).pvalue > 1e-3
