"""Completing text: against the model's own conditional, by enumeration; windows; words that must be there."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

import plausible as pl
from plausible.errors import CapabilityError, DataError, SpaceError
from plausible.space import Text
from plausible.uses.complete import complete, stream

WORDS = ["anna", "hannah", "otto", "bob", "nan", "noon", "hat", "bath"] * 5
RHYME = "the cat sat on the mat and the rat sat on the cat. " * 40


@pytest.fixture(scope="module")
def whole():
    """A model of whole strings, of at most three letters of an alphabet of two."""
    rng = np.random.default_rng(0)
    strings = ["".join("ab"[b] for b in rng.integers(0, 2, rng.integers(0, 4))) for _ in range(300)]
    return pl.ContextTable(order=2).fit(strings)


@pytest.fixture(scope="module")
def windows():
    return pl.ContextTable(order=5).fit(RHYME)


def test_completions_follow_the_conditional(whole):
    """Of all strings that begin with the prompt, each as often as p(string | prompt) says."""
    strings = ["".join(s) for k in range(4) for s in itertools.product("ab", repeat=k)]
    p = np.exp(whole.log_prob(strings))
    assert p.sum() == pytest.approx(1)
    begun = {s: q for s, q in zip(strings, p, strict=True) if s.startswith("a")}
    total = sum(begun.values())
    drawn = [complete(whole, "a", length=9, random_state=i) for i in range(400)]
    counts = Counter(map(str, drawn))
    assert set(counts) <= set(begun)
    expected = np.array([400 * q / total for q in begun.values()])
    assert stats.chisquare([counts[s] for s in begun], expected).pvalue > 1e-3
    for one in drawn[:20]:
        assert one.log_prob == pytest.approx(np.log(begun[str(one)] / total), abs=1e-9)
        assert one.altered == () and one.stopped == "end"


def test_the_state_is_that_of_the_whole_text(windows):
    """log p of a completion is what reading prompt and text from the start gives."""
    long = pl.ContextTable(order=5, space=pl.space.Text.of(sorted(set(RHYME)), 200, end=False)).fit(RHYME)
    one = complete(long, "the rat ", length=60, random_state=0)
    whole, prompt = long.log_prob([str(one)])[0], long.log_prob(["the rat "])[0]
    assert one.log_prob == pytest.approx(whole - prompt, abs=1e-9)


def test_windows_go_on(windows):
    one = complete(windows, "the cat ", length=500, random_state=0)
    assert len(one.text) == 500 and one.stopped == "length"
    assert one.text.count("sat on the") > 5  # still what was learned, long after the first window


def test_stream_is_complete(windows):
    characters = stream(windows, "the ", random_state=3)
    first = "".join(itertools.islice(characters, 150))
    assert first == complete(windows, "the ", length=150, random_state=3).text


@pytest.mark.parametrize("words", [["rat"], ["mat", "cat"], "and"])
def test_words_are_always_there(windows, words):
    for seed in range(5):
        one = complete(windows, "the ", length=80, include=words, random_state=seed)
        rest = one.text
        for word in [words] if isinstance(words, str) else words:
            assert word in rest
            after = rest.partition(word)[2]
            assert not after[:1].isalnum()
            rest = after
        assert len(one.text) <= 80
        assert "put in" in one.altered[0]


def test_words_in_strings():
    """A string has room for no more than the model knows; one of letters alone goes on behind what is put in."""
    names = pl.ContextTable(order=2).fit(WORDS)  # at most 6 letters
    drawn = [complete(names, "h", include=["an"], random_state=s) for s in range(20)]
    assert all("an" in one.text and len(str(one)) <= 6 for one in drawn)
    assert {one.text.partition("an")[2] != "" for one in drawn} == {True, False}
    with pytest.raises(DataError, match="do not fit into the 4 characters"):
        complete(names, "ha", include=["hanna"])
    captions = pl.ContextTable(order=2).fit(["a man sits", "a man", "a cat sits", "cats sit"] * 5)
    for seed in range(5):
        one = complete(captions, "a ", include=["man"], random_state=seed)
        assert "man" in one.text and len(str(one)) <= 10
        assert not one.text.partition("man")[2][:1].isalnum()


def test_temperature_top_k_and_stop(windows):
    likeliest = {str(complete(windows, "the ", length=30, top_k=1, random_state=s)) for s in range(5)}
    cold = {str(complete(windows, "the ", length=30, temperature=0.01, random_state=s)) for s in range(5)}
    assert likeliest == cold and len(cold) == 1
    assert "temperature 0.01" in complete(windows, length=5, temperature=0.01).altered
    assert "1 likeliest" in complete(windows, length=5, top_k=1).altered[0]
    one = complete(windows, "the ", length=500, stop=". ", random_state=0)
    assert one.text.endswith(". ") and one.stopped == "stop" and one.text.count(". ") == 1


def test_a_conditional_net():
    """Any family that takes character after character, with a context."""
    names = [w for w in WORDS]
    kind = ["h" in w for w in names]
    model = pl.MADE(hidden=(64,), epochs=60, batch_size=10, learning_rate=5e-3, random_state=0).fit(names, context=kind)
    drawn = [str(complete(model, "", length=6, context=[True], random_state=s)) for s in range(25)]
    assert np.mean(["h" in w for w in drawn]) > 0.8
    with pytest.raises(DataError, match="context"):
        complete(model, "", length=6)


def test_windows_of_one_character_go_on():
    model = pl.RNN(hidden=4, epochs=1, random_state=0, space=Text.of("ab", 1, end=False)).fit("ab" * 40)
    assert len(complete(model, "abab", length=9, random_state=0).text) == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", [pl.RNN, pl.Transformer, pl.WaveNet])
def test_a_model_on_a_gpu_goes_on(family):
    model = family(epochs=1, random_state=0, device="cuda").fit(RHYME)
    assert len(complete(model, "the cat", length=20, random_state=0).text) == 20


@pytest.mark.parametrize(
    "settings",
    [
        {"length": None},
        {"length": 2.5},
        {"temperature": "1"},
        {"temperature": 0},
        {"stop": 3},
        {"include": [3]},
        {"stop": ""},
        {"include": ""},
    ],
)
def test_settings_that_mean_nothing_are_refused(windows, settings):
    with pytest.raises(DataError, match=next(iter(settings))):
        complete(windows, "the", **settings)


def test_what_is_refused(windows, whole):
    with pytest.raises(SpaceError, match="'Z'"):
        complete(windows, "the Zebra")
    with pytest.raises(SpaceError, match="'Z'"):
        complete(windows, "the", include=["Zebra"])
    with pytest.raises(DataError, match="do not fit"):
        complete(windows, "the", length=10, include=["mat", "mat", "mat", "mat"])
    with pytest.raises(DataError, match="at most 3"):
        complete(whole, "abab")
    for wrong in ({"length": 0}, {"temperature": 0}, {"top_k": 0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            complete(windows, "the", **wrong)
    with pytest.raises(CapabilityError, match="not on text"):
        complete(pl.MADE(epochs=1, random_state=0).fit(np.zeros((5, 2)) + np.arange(5)[:, None]), "a")
    with pytest.raises(CapabilityError, match="no character after the other"):
        complete(pl.Independent().fit(WORDS), "a")
