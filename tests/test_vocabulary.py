"""Text in characters, bytes and byte pairs: what is lossless, what is exact, what is a bound, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import plausible as pl
from plausible.errors import DataError, ModelFileError, PlausibleError, SpaceError
from plausible.evaluate import likelihood
from plausible.space import BytePairs, Characters, Column, Space, Text, infer_text
from plausible.space.spaces import from_json
from plausible.uses.complete import complete, stream

RHYME = "the cat sat on the mat and the rat sat on the cat. " * 40
FOREIGN = "Å, né à Ōsaka (大阪) 🙂🙂 — naïve; \\alpha_{1} \t\r\n" * 20
WORDS = ["abc", "ab", "ba", "cbc", "bb", "a", "aa", "abab"] * 20  # with b, where ab has an a and a b, and the like
AB, ABC = 256, 257  # tokens of PAIRS
PAIRS = BytePairs(((97, 98), (AB, 99)))  # ab, abc
LEARNED = BytePairs.learn(RHYME + FOREIGN, 300)
VOCABULARIES = {"characters": Characters(tuple(sorted(set(RHYME)))), "bytes": BytePairs(), "bpe": LEARNED}


def of_codes(model, codes: torch.Tensor) -> torch.Tensor:
    """log p of codes (n, T)."""
    with torch.no_grad():
        return model._log_prob(model._evaluator(), codes, None, None)


def ways(raw: bytes, tokens: tuple[bytes, ...]) -> list[list[int]]:
    """All sequences of tokens that are these bytes."""
    if not raw:
        return [[]]
    first = [k for k, token in enumerate(tokens) if raw.startswith(token)]
    return [[k, *rest] for k in first for rest in ways(raw[len(tokens[k]) :], tokens)]


def test_tokens_that_all_begin_inside_a_character():
    """Merges of (x, first byte of é) and (its second byte, that): only at its ends is the text between characters."""
    vocabulary, text = BytePairs(((ord("x"), 0xC3), (0xA9, 256))), "xé" * 40
    assert len(vocabulary.encode(text)) == 41
    parts = vocabulary.windows(text, 8)
    assert "".join(parts) == text and all(parts) and max(len(vocabulary.encode(p)) for p in parts) <= 8


@pytest.fixture(scope="module")
def whole():
    """Strings of at most four tokens; the columns are independent, so that all ways to cut a string have some mass."""
    return pl.Independent(space=Text._of(PAIRS, 4, end=True)).fit(WORDS)


@pytest.fixture(scope="module", params=list(VOCABULARIES))
def windows(request):
    return pl.ContextTable(order=5, space=Text._of(VOCABULARIES[request.param], 48, end=False)).fit(RHYME)


# ------------------------------------------------------------------------------------------------------- lossless


@given(st.text(max_size=60))
def test_every_string_comes_back(text):
    for vocabulary in (BytePairs(), LEARNED):
        codes = vocabulary.encode(text)
        assert vocabulary.decode(codes) == text
        decoder = vocabulary.decoder()
        assert "".join(decoder(k) for k in codes) == text and vocabulary.whole(codes)
        space = Text._of(vocabulary, max(len(codes), 4), end=True)
        assert space.decode(space.encode([text])) == [text]


@given(st.text(min_size=1, max_size=80), st.integers(4, 9))
def test_windows_are_the_text_and_cut_no_character(text, length):
    for vocabulary in (BytePairs(), LEARNED):
        parts = vocabulary.windows(text, length)
        assert "".join(parts) == text and all(parts)
        assert max(len(vocabulary.encode(p)) for p in parts) <= length


def test_a_stream_of_bytes_shows_whole_characters_only():
    decoder = BytePairs().decoder()
    assert [decoder(b) for b in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert BytePairs().decode("né🙂".encode()[:-1], ended=False) == "né"  # the rest of the last may come yet
    assert BytePairs().decode("né🙂".encode()[:-1]) == "né\ufffd"
    assert BytePairs().decode(b"a\xffb") == "a\ufffdb"  # no UTF-8 at all


def test_tokens_are_those_of_the_merges():
    assert PAIRS.tokens[:256] == tuple(bytes([b]) for b in range(256))
    assert PAIRS.tokens[AB:] == (b"ab", b"abc")
    assert PAIRS.encode("abcab") == [ABC, AB] and PAIRS.encode("ba") == [98, 97]
    assert len(LEARNED.tokens) == 300 and len(set(LEARNED.tokens)) == 300
    codes = LEARNED.encode(RHYME)
    assert len(codes) < len(RHYME) / 2 and b" the" in LEARNED.tokens


# ------------------------------------------------------------------------------------------------ exact, and bounds


def test_all_byte_strings_have_mass_one():
    space = Text.bytes(2, end=True)
    model = pl.ContextTable(order=1, space=space).fit(["é", "ab", "", "a", "b"] * 9)
    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256)).float()
    end, nan = 256.0, math.nan
    codes = torch.cat([torch.tensor([[end, nan]]), torch.tensor([[b, end] for b in range(256)]), pairs])
    log_p = of_codes(model, codes)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    strings = ["", *map(chr, range(128)), *(chr(a) + chr(b) for a in range(128) for b in range(128))]
    strings += [chr(c) for c in range(128, 0x800)]  # of two bytes: these are all strings of UTF-8
    valid = np.exp(model.log_prob(strings)).sum()
    bad = [not is_text(bytes(int(b) for b in row if b < 256)) for row in codes.nan_to_num(end).tolist()]
    assert valid + float(log_p[torch.tensor(bad)].exp().sum()) == pytest.approx(1, abs=1e-5)
    assert model.likelihood_kind_ == "exact"


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_byte_pairs_bound_the_probability_of_a_string(whole):
    """By the sum over all ways to cut it into tokens, which is how often it is drawn."""
    assert whole.likelihood_kind_ == "lower_bound"
    drawn, n = whole.sample(4000, random_state=0), 4000
    for string in ("abc", "ab", "abab", "b", ""):
        rows = [w for w in ways(string.encode(), PAIRS.tokens) if len(w) <= 4]
        assert len(rows) == {"abc": 3, "ab": 2, "abab": 4, "b": 1, "": 1}[string]
        codes = torch.full((len(rows), 4), math.nan)
        for row, way in zip(codes, rows, strict=True):
            row[: len(way) + 1] = torch.tensor([*way, len(PAIRS.tokens)])[: min(len(way) + 1, 4)]
        assert whole.space_.decode(codes) == [string] * len(rows)
        each = of_codes(whole, codes)
        total, canonical = float(each.exp().sum()), float(np.exp(whole.log_prob([string])[0]))
        assert canonical == pytest.approx(float(each.exp()[rows.index(PAIRS.encode(string))]))
        more = 1.05 if string == "ab" else 1.0 if len(rows) == 1 else 1 + 1e-6
        assert total >= more * canonical * (1 - 1e-12)
        assert drawn.count(string) == pytest.approx(n * total, abs=5 * math.sqrt(n * total) + 1)


def test_likelihood_says_what_it_is_and_compares_by_bytes(whole):
    found = likelihood(whole, WORDS, importance_samples=8)
    assert found.kind == "lower_bound" and found.n_importance_samples is None
    ends = sum(len(PAIRS.encode(s)) < 4 for s in WORDS)
    n_bytes = sum(map(len, WORDS)) + ends
    nats = -found.values.sum()
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes)
    tokens = sum(len(PAIRS.encode(s)) for s in WORDS) + ends
    assert found.bits_per_dim == pytest.approx(nats / math.log(2) / tokens)
    assert "≥" in str(found) and "one of the ways to cut a text into tokens" in str(found)
    assert f"{nats / tokens:.3f} nats or {found.bits_per_dim:.3f} bits per token, {found.bits_per_byte:.3f}" in str(
        found
    )
    exact = pl.Independent(space=Text.bytes(4, end=True)).fit(WORDS)
    assert likelihood(exact, WORDS).bits_per_byte == pytest.approx(likelihood(exact, WORDS).bits_per_dim)


def test_vocabularies_come_to_the_same_where_they_are_the_same():
    """Of one alphabet that happens to be all bytes below 128: characters and bytes are the same model."""
    text = "".join(map(chr, np.random.default_rng(0).integers(0, 128, 4000)))
    characters = pl.ContextTable(order=1, smoothing="absolute", space=Text.of(map(chr, range(256)), 16, end=False)).fit(
        text
    )
    raw = pl.ContextTable(order=1, smoothing="absolute", space=Text.bytes(16)).fit(text)
    assert np.allclose(characters.log_prob(text), raw.log_prob(text))


# ------------------------------------------------------------------------------------------------- learned, stored


def test_learning_is_the_same_every_time_and_files_open_in_a_fresh_process(tmp_path):
    model = pl.ContextTable(order=2, space=Text.bpe(RHYME + FOREIGN, 300, 32)).fit(RHYME + FOREIGN)
    model.save(tmp_path / "m.plausible")
    (tmp_path / "text").write_bytes((RHYME + FOREIGN).encode())
    code = (
        "import sys, json, plausible as pl; from pathlib import Path; from plausible.space import BytePairs\n"
        "model, text = pl.load(sys.argv[1]), Path(sys.argv[2]).read_bytes().decode()\n"
        "found = [BytePairs.learn(text, 300).merges, list(model.log_prob(text)), model.sample(2, random_state=0)]\n"
        "print(json.dumps(found))"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.plausible"), str(tmp_path / "text")],
        capture_output=True,
        check=True,
        env={**os.environ, "RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "7"},
    )
    merges, log_p, drawn = json.loads(again.stdout)
    assert tuple(map(tuple, merges)) == LEARNED.merges == model.space_.vocabulary.merges
    assert drawn == model.sample(2, random_state=0)
    assert log_p == model.log_prob(RHYME + FOREIGN).tolist()


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("name", list(VOCABULARIES))
def test_spaces_round_trip_as_json(name, end):
    space = Text._of(VOCABULARIES[name], 7, end)
    assert from_json(json.loads(json.dumps(space.to_json()))) == space
    assert "merges" in space.to_json() or name == "characters"


def rewritten(path, change) -> str:
    """The model file with its space changed."""
    with zipfile.ZipFile(path) as archive:
        held = {e.filename: archive.read(e) for e in archive.infolist()}
    described = json.loads(held["model.json"])
    change(described)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in (held | {"model.json": json.dumps(described).encode()}).items():
            archive.writestr(zipfile.ZipInfo(name), raw)
    return path


@pytest.mark.parametrize(
    "merges",
    [[[0, 999]], [[256, 97]], [[-1, 97]], [[97]], [["a", "b"]], 7, [[97, 97], *([k, k] for k in range(256, 330))], [7]],
    ids=str,
)
def test_a_hostile_vocabulary_is_refused(tmp_path, whole, merges):
    whole.save(tmp_path / "m.plausible")
    path = rewritten(tmp_path / "m.plausible", lambda d: d["space"].update(merges=merges))
    with pytest.raises(ModelFileError, match="damaged or was not written by plausible"):
        pl.load(path)


# ------------------------------------------------------------------------------------------------------- completing


def test_completions_hold_what_was_asked_for(windows):
    for seed in range(3):
        one = complete(windows, "the cat", length=60, include=["rat", "mat"], random_state=seed)
        at = one.text.index("rat")
        rest = one.text[at + 3 :]
        assert not rest[:1].isalnum() and "mat" in rest
        assert not rest[rest.index("mat") + 3 :][:1].isalnum()
    one = complete(windows, "the cat", length=300, stop=". ", random_state=0)
    assert one.text.endswith(". ") and one.text.count(". ") == 1 and one.stopped == "stop"
    cold = {complete(windows, "the cat", length=20, top_k=1, random_state=s).text for s in range(3)}
    assert len(cold) == 1
    assert (
        "".join(stream(windows, "the", length=70, random_state=3))
        == complete(windows, "the", length=70, random_state=3).text
    )


def test_log_prob_of_a_completion_is_that_of_its_codes(windows):
    one = complete(windows, "the cat", length=30, random_state=0)
    vocabulary = windows.space_.vocabulary
    begun = vocabulary.encode("the cat")
    drawn = [k for k in vocabulary.encode(str(one))][len(begun) :]
    if vocabulary.decode(begun + drawn) != str(one) or len(begun + drawn) > 48:
        pytest.skip("drawn tokens are another way to cut this text")
    codes = torch.full((2, 48), math.nan)
    codes[0, : len(begun)] = torch.tensor(begun)
    codes[1, : len(begun + drawn)] = torch.tensor(begun + drawn)
    before, after = of_codes(windows, codes).tolist()
    assert one.log_prob <= after - before + 1e-6 or windows.space_.one_code
    if windows.space_.one_code:
        assert one.log_prob == pytest.approx(after - before, abs=1e-6)


def test_characters_of_many_bytes_are_written_whole():
    model = pl.ContextTable(order=6, space=Text.bytes(40)).fit(FOREIGN)
    pieces = list(stream(model, "Å, n", length=200, top_k=1, random_state=0))
    text = "".join(pieces)
    assert text in FOREIGN and "大阪" in text and all(pieces)
    cut = complete(model, "Å, n", length=1, top_k=1, random_state=0)  # half of é
    assert cut.text == ""


# --------------------------------------------------------------------------------------------------------- bad input


def test_what_is_refused_says_what_to_do(windows):
    lacks = pl.ContextTable(order=1).fit(["ab", "ba", "a"])
    with pytest.raises(SpaceError, match="string 0 holds the character 'Z'.*remove it.*vocabulary of bytes"):
        lacks.log_prob(["aZ"])
    with pytest.raises(SpaceError, match="the prompt holds the character 'Z'"):
        complete(lacks, "Z")
    with pytest.raises(SpaceError, match="3 characters, the model was fitted on at most 2.*cut it, or fit on longer"):
        lacks.log_prob(["aba"])
    with pytest.raises(DataError, match="strings of at most 2 characters and cannot continue beyond; ask for fewer"):
        complete(lacks, "aba")
    with pytest.raises(DataError, match="the prompt must be a string, which may be empty; got NoneType"):
        complete(windows, None)
    assert len(complete(windows, "", length=5, random_state=0).text) > 0  # an empty one begins from nothing
    with pytest.raises(SpaceError, match="half of a pair that stands for one character"):
        BytePairs().encode("a\ud800")
    with pytest.raises(DataError, match="256 .* to 65,536 tokens, got 100"):
        Text.bpe(RHYME, 100)
    with pytest.raises(DataError, match="does not hold every character; give 4"):
        Text.bytes(3)
    with pytest.raises(DataError, match="must be one of 'characters', 'bytes', 'bpe'; got 'words'"):
        infer_text(RHYME, vocabulary="words")


def test_without_the_package_one_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PlausibleError, match=r"pip install 'plausible\[text\]'; or use bytes"):
        BytePairs.learn(RHYME, 300)
    assert BytePairs().decode(BytePairs().encode("né")) == "né"


def test_other_spaces_have_one_code():
    assert Space((Column("a", "real"),), (1,)).one_code and Text.bytes(4).one_code
    assert not Text._of(PAIRS, 4, end=True).one_code


# ------------------------------------------------------------------------------------------------------ command line


def run(*args) -> tuple[int, str, str]:
    from plausible.cli import app

    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_line_takes_a_vocabulary(tmp_path):
    (tmp_path / "book.md").write_text(RHYME)
    (tmp_path / "other.md").write_text("Zoë sat on the mat.\n")
    model = tmp_path / "m.plausible"
    reading = ("--vocabulary", "bpe", "--vocabulary-size", 270, "--length", 30)
    code, _, err = run("fit", tmp_path / "book.md", "-m", "context_table", *reading, "-o", model)
    assert code == 0 and "windows of 30 tokens of a byte-pair vocabulary of 270" in err
    code, out, _ = run("score", model, tmp_path / "other.md")
    assert code == 0 and "lower bound" in out and "per byte" in out
    code, out, err = run("complete", model, "the cat", "--length", 20, "--seed", 1)
    assert code == 0 and out.startswith("the cat")
    code, out, err = run("complete", model, "--length", 5, "--seed", 1)
    assert code == 0 and "no prompt: the text begins from nothing; give one" in err
    code, out, _ = run("sample", model, "-n", 3, "--seed", 0)
    assert [len(part) > 0 for part in out.split("\n-----\n")] == [True] * 3
    code, _, err = run("fit", tmp_path / "book.md", "-m", "context_table", "--vocabulary", "words", "-o", model)
    assert code == 2 and "'characters', 'bytes', 'bpe'" in err
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{i % 3},{i / 7}\n" for i in range(50)))
    code, _, err = run("fit", tmp_path / "rows.csv", "-m", "independent", "--vocabulary", "bytes", "-o", model)
    assert code == 2 and "a vocabulary can be given for text only" in err
