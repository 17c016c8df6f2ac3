"""Compression: the same back to the bit, in as many bits as the model says, and nothing else ever."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.errors import CapabilityError, DataError, ReadError, SpaceError
from plausible.heads import DiscretisedLogistics, Heads, MixtureOfLaplaces, MixtureOfNormals
from plausible.space import Clips, Column, Space
from plausible.uses.compress import compress, decompress, digest, fingerprint, note_of
from plausible.uses.compress._coding import Guard, Stack

SLACK = 64  # bytes beyond one per cent
WORDS = ["banana", "ananas", "bandana", "nab"] * 25


def bytes_of(model, X) -> float:
    return -model.log_prob(X).sum() / math.log(2) / 8


def same_frames(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Which of None and NaN marks a missing cell is not kept."""
    pd.testing.assert_frame_equal(*(x.astype({"kind": object}).where(x.notna(), None) for x in (a, b)))
    assert (a.dtypes.astype(str) == b.dtypes.astype(str)).all()


def bits(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4, 4)) < rng.choice([0.1, 0.8], (n, 1, 1))
    return x.astype(np.uint8)


@pytest.fixture(scope="module")
def nade():
    return pl.NADE(hidden=16, epochs=3, random_state=0).fit(bits(400))


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size = rng.gamma(2, 10, n)
    return pd.DataFrame(
        {
            "size": size.round(2),
            "visits": rng.poisson(size),
            "kind": np.where(rng.random(n) < size / 60, "large", "small"),
            "grade": pd.Categorical(rng.choice(["a", "b", "c"], n), categories=["c", "b", "a"], ordered=True),
            "paid": rng.random(n) < 0.5,
        }
    )


@pytest.fixture(scope="module")
def of_table():
    """A model that goes step by step, one by marginals, and one with a code."""
    X = frame(400)
    return [
        pl.MADE(hidden=(16,), epochs=4, random_state=0).fit(X),
        pl.Independent(random_state=0).fit(X),
        pl.VAE(latent=2, hidden=(16,), epochs=4, random_state=0).fit(X),
    ]


# ---------------------------------------------------------------------------------------------------------- sizes


def size_cases():
    x = bits(2400, 1)
    table = pd.DataFrame(x.reshape(-1, 16)[:, :6]).set_axis(list("abcdef"), axis=1)
    strings = list(np.random.default_rng(0).permutation(WORDS * 30))
    text = " ".join(strings)
    grey = np.random.default_rng(0).binomial(60, 0.2 + 0.6 * x[:500] * 0.5, x[:500].shape).astype(np.uint8)
    return {
        "NADE": (pl.NADE(hidden=16, epochs=3, random_state=0), x),
        "PixelCNN of many levels": (pl.PixelCNN(channels=16, blocks=2, epochs=2, random_state=0), grey),
        "Mixture": (pl.Mixture(random_state=0), table),
        "BayesNet": (pl.BayesNet(random_state=0), table),
        "Markov, strings": (pl.Markov(), strings),
        "ContextTable, strings": (pl.ContextTable(order=2), strings),
        "ContextTable, a text": (pl.ContextTable(order=2), text),
        "Transformer": (pl.Transformer(hidden=16, layers=1, epochs=1, random_state=0), strings),
        "HMM": (pl.HMM(n_states=2, n_init=1, random_state=0), table),
    }


@pytest.mark.parametrize("case", size_cases())
def test_size_is_what_the_model_says(case):
    model, X = size_cases()[case]
    model.fit(X)
    data = compress(model, X)
    assert len(data) <= 1.01 * bytes_of(model, X) + SLACK
    assert len(data) >= 0.99 * bytes_of(model, X)
    assert digest(decompress(model, data)) == digest(X)


@pytest.mark.parametrize("family", ["NADE", "Gaussian"])
def test_reals_cost_the_density_times_the_step(family):
    """-log2 P(cell), P(cell) close to the density times the width; by cumulatives, and by densities alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 1)) + 0.5 * rng.normal(size=(1500, 3))
    model = pl.Gaussian() if family == "Gaussian" else pl.NADE(hidden=8, epochs=10, random_state=0)
    model.fit(X)
    for step in (0.01, 1e-6):
        data = compress(model, X, precision=step)
        assert (
            len(data) <= 1.01 * (bytes_of(model, X) - X.size * math.log2(step) / 8) + SLACK + 30 * X.shape[1]
        )  # where the lattices begin
        assert np.abs(decompress(model, data) - X).max() <= step / 2 + 1e-12
        assert (decompress(model, data) == np.rint(X / step) / round(1 / step)).all()


def test_bits_back_costs_the_bound():
    X = bits(2000, 2)
    model = pl.VAE(latent=2, hidden=(32,), epochs=15, random_state=0).fit(X)
    bound = bytes_of(model, X)
    spread = model.log_prob(X).std() * math.sqrt(len(X)) / math.log(2) / 8  # of a sum over as many examples
    data = compress(model, X)
    assert (decompress(model, data) == X).all()
    assert abs(len(data) - bound) < 0.02 * bound + SLACK
    assert len(data) < bytes_of(pl.Independent().fit(X), X) - spread  # without bits back the code costs more than that


# --------------------------------------------------------------------------------------------------- the same back


cells = st.fixed_dictionaries(
    {
        "size": st.one_of(st.none(), st.integers(0, 10_000).map(lambda i: i / 100), st.just(1e9)),
        "visits": st.one_of(st.none(), st.integers(-3, 500), st.integers(10**6, 10**12)),
        "kind": st.one_of(st.none(), st.sampled_from(["large", "small", "", "größer"])),
        "grade": st.one_of(st.none(), st.sampled_from(["a", "b", "c"])),
        "paid": st.booleans(),
    }
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(  # a stretch of numbers that has no mass at all under the model
    rows=[{"size": 1e9, "visits": n, "kind": None, "grade": None, "paid": False} for n in (0, 10**6)],
    order=[2, 1, 0, 4, 3],
    single=True,
)
@given(rows=st.lists(cells, max_size=12), order=st.permutations(range(5)), single=st.booleans())
def test_tables_come_back_to_the_bit(of_table, rows, order, single):
    columns = ["size", "visits", "kind", "grade", "paid"]
    X = pd.DataFrame(rows, columns=columns)
    X["size"] = X["size"].astype(np.float32 if single else np.float64)
    X["visits"] = X["visits"].astype(float if X["visits"].isna().any() else "int64")
    X["paid"] = X["paid"].astype(bool)
    X["grade"] = pd.Categorical(X["grade"], categories=["c", "b", "a"], ordered=True)
    X = X[[columns[i] for i in order]]
    for model in of_table:
        back = decompress(model, compress(model, X))
        same_frames(back, X)


def test_what_no_model_knows_is_kept_beside(of_table):
    X = frame(50, 3)
    X.loc[0, "kind"], X.loc[1, "size"], X["visits"] = "unheard of", math.pi, X["visits"].astype(float)
    X.loc[2, "visits"], X.loc[3, "size"] = 2.5, np.inf
    X["grade"] = X["grade"].astype(object)
    with pytest.raises(DataError, match="'size' holds reals.*state the precision"):
        compress(of_table[0], X)
    X = pd.concat([X] * 4, ignore_index=True)  # four of two hundred are more than one in a hundred
    X.loc[50:, "size"] = frame(150, 3)["size"].to_numpy()
    for model in of_table:
        back = decompress(model, compress(model, X))
        same_frames(back, X)


def test_missing_cells_cost_no_symbols():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.choice(["a", "b"], (2000, 4)), columns=list("wxyz"))
    model = pl.BayesNet(random_state=0).fit(X)
    holed = X.mask(rng.random(X.shape) < 0.5)
    data = compress(model, holed)
    assert digest(decompress(model, data)) == digest(holed)
    assert len(data) < bytes_of(model, holed) + holed.size / 8 * 1.1 + 2 * SLACK  # and a bit each for where they are


def test_strings_and_texts():
    model = pl.ContextTable(order=2).fit(WORDS)
    for X in (["nab", "", "zebra", "banana" * 9, "ananas"], [], [""]):
        assert decompress(model, compress(model, X)) == X
    with pytest.raises(DataError, match="expected strings"):
        compress(model, ["nab", None])
    text = " ".join(WORDS)
    model = pl.ContextTable(order=2).fit(text)
    for X in ("", "nab", text[:200] + "\n§" + text):
        assert decompress(model, compress(model, X)) == X


@pytest.mark.parametrize("family", ["RNN", "ContextTable"])
def test_texts_of_bytes(family):
    from plausible.space import Text

    text = "naïve café über alles. " * 30
    settings = {"hidden": 8, "epochs": 1, "random_state": 0} if family == "RNN" else {"order": 2}
    model = getattr(pl, family)(space=Text.bytes(16), **settings).fit(text)
    for X in (text[:100], "鷗外 was not in it"):
        assert decompress(model, compress(model, X)) == X


def test_series_images_and_sound():
    rng = np.random.default_rng(0)
    S = np.cumsum(rng.normal(size=(30, 6, 2)), 1).round(2)
    model = pl.RNN(hidden=8, epochs=1, random_state=0, space="series").fit(S)
    assert digest(decompress(model, compress(model, S))) == digest(S)
    ragged = [s[: 2 + i % 5] for i, s in enumerate(S)]
    model = pl.RNN(hidden=8, epochs=1, random_state=0, space="series").fit(ragged)
    assert digest(decompress(model, compress(model, ragged))) == digest(ragged)
    colour = rng.integers(0, 256, (20, 3, 3, 3)).astype(np.uint8)
    model = pl.PixelCNN(channels=8, blocks=1, epochs=1, random_state=0).fit(colour)
    assert (decompress(model, compress(model, colour)) == colour).all()
    assert decompress(model, compress(model, colour[:0])).shape == (0, 3, 3, 3)
    clips = Clips([(3000 * np.sin(np.arange(n) / 7)).astype(np.int16) for n in (20, 13, 27, 30)], 8000)
    for head in ("mu_law", "logistic"):
        model = pl.WaveNet(channels=4, layers=2, stacks=1, epochs=1, random_state=0, head=head).fit(clips)
        back = decompress(model, compress(model, clips))
        assert digest(back) == digest(clips) and back.rate == 8000


def test_context():
    X, c = bits(200), np.arange(200) % 2
    model = pl.NADE(hidden=8, epochs=2, random_state=0).fit(X, context=c)
    data = compress(model, X, context=c)
    assert (decompress(model, data, context=c) == X).all()
    with pytest.raises(ReadError, match="another context|cannot be decoded"):
        decompress(model, data, context=1 - c)


# ------------------------------------------------------------------------------------------------- damage, refusals


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), flip=st.integers(1, 255))
def test_damage_is_detected(nade, at, flip):
    data = compress(nade, bits(20))
    place = min(int(at * len(data)), len(data) - 1)
    altered = bytearray(data)
    altered[place] ^= flip
    with pytest.raises(ReadError, match="damaged|written by compress"):
        decompress(nade, bytes(altered))
    with pytest.raises(ReadError, match="damaged|written by compress"):
        decompress(nade, data[:place])


def test_another_model_is_refused(nade, tmp_path):
    data = compress(nade, bits(20))
    nade.save(tmp_path / "nade.plausible")
    assert (decompress(pl.load(tmp_path / "nade.plausible"), data) == bits(20)).all()
    other = pl.load(tmp_path / "nade.plausible")
    with torch.no_grad():
        other.module_.b[0] += 1e-6
    assert fingerprint(other) != fingerprint(nade)
    with pytest.raises(ReadError, match="compressed with another model"):
        decompress(other, data)


def test_a_decoder_that_computes_otherwise_returns_nothing(nade, monkeypatch):
    """With the checksum of the file and the fingerprint of the model right, the contents are still checked."""
    data = compress(nade, bits(100))
    frequencies = Guard.frequencies
    monkeypatch.setattr(Guard, "frequencies", lambda self, below, t=None: frequencies(self, below * 0.999, t))
    with pytest.raises(ReadError, match="checksum|cannot be decoded"):
        decompress(nade, data)


def test_what_cannot_be_done_is_refused(nade, of_table):
    X = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.raises(CapabilityError, match="cannot compress.*these families can"):
        compress(pl.CouplingFlow(epochs=1, random_state=0).fit(X), X)
    with pytest.raises(SpaceError, match="does not know the column 'more'"):
        compress(of_table[0], frame(5).assign(more=1))
    with pytest.raises(SpaceError, match="needs the column 'visits'"):
        compress(of_table[0], frame(5).drop(columns="visits"))
    with pytest.raises(SpaceError):
        compress(nade, bits(5) + 7)
    with pytest.raises(DataError, match="precision must be"):
        compress(of_table[0], frame(5), precision={"size": -1})


# ---------------------------------------------------------------------------------- the same numbers in both directions


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tolerance=st.sampled_from([1e-9, 1e-4, 0.1]))
def test_rounding_is_the_same_where_floats_are_not(seed, tolerance):
    rng = np.random.default_rng(seed)
    x = rng.integers(-5, 6, (40, 5)) + rng.choice([0.0, 0.25, 0.5, 0.5 - tolerance / 2, 0.5 + tolerance / 3], (40, 5))
    writer = Guard()
    said = [writer.round(part, tolerance) for part in (x[:10], x[10:11], x[11:])]
    reader = Guard.of(writer.notes())
    elsewhere = x + rng.uniform(-0.9, 0.9, x.shape) * tolerance
    heard = [reader.round(part, tolerance) for part in (elsewhere[:10], elsewhere[10:11], elsewhere[11:])]
    assert (np.concatenate(said) == np.concatenate(heard)).all()


def test_decoding_with_other_last_bits(nade, monkeypatch):
    """A machine whose probabilities differ by a thousand last bits decodes the same, and a note is what makes it so."""
    X = bits(3000, 5)
    data, plain = compress(nade, X), Guard.round
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Guard, "round", lambda self, x, t: plain(self, x + rng.uniform(-1, 1, x.shape) * 2e-7, t))
    assert (decompress(nade, data) == X).all()


READER = """
import sys, torch, plausible as pl
from pathlib import Path
from plausible.uses.compress import decompress, digest
torch.set_num_threads(2)
for name in sys.argv[2:]:
    X = decompress(pl.load(f"{sys.argv[1]}/{name}.plausible"), Path(sys.argv[1], name).read_bytes())
    print(torch.get_num_threads(), digest(X).hex())
"""


def test_a_fresh_process_with_more_threads_decodes_the_same(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (150, 8, 8)).astype(np.uint8)
    models = {
        "wide": pl.NADE(hidden=256, epochs=1, random_state=0),
        "pixels": pl.PixelCNN(channels=32, blocks=1, epochs=1, random_state=0),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, model in models.items():
            (tmp_path / name).write_bytes(compress(model.fit(X[:100]), X))
            model.save(tmp_path / f"{name}.plausible")
    finally:
        torch.set_num_threads(before)
    args = [sys.executable, "-c", READER, str(tmp_path), *models]
    out = subprocess.run(args, capture_output=True, text=True)
    assert not out.returncode, out.stderr
    assert out.stdout.split() == ["2", digest(X).hex()] * 2


def test_a_stack_undoes_itself():
    rng = np.random.default_rng(0)
    stack = Stack(rng.integers(1, 2**32, 50, dtype=np.uint32), Guard(), writes=True)
    before = stack.words()
    mean, deviation = rng.normal(size=20) * 50, rng.gamma(2, 20, 20)
    drawn = stack.pop_normal(mean, deviation, 500)
    assert len(stack.words()) < len(before)
    stack.push_normal(drawn, mean, deviation, 500)
    assert (stack.words() == before).all()


# ------------------------------------------------------------------------------------------------------------ heads


def test_cumulatives_of_heads_are_the_integrals_of_their_densities():
    rng = torch.Generator().manual_seed(0)
    params = torch.randn(5, 1, 9, generator=rng, dtype=torch.float64)
    real = [Column("x", "real")]
    for head in (MixtureOfNormals(real, 3), MixtureOfLaplaces(real, 3)):
        edges = torch.linspace(-3, 3, 13, dtype=torch.float64)
        points = torch.linspace(0, 1, 301, dtype=torch.float64)  # in each stretch
        inside = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * points  # (12, 301)
        p = torch.stack([head.log_prob(params, value.expand(5, 1)).exp()[:, 0] for value in inside.flatten()], 1)
        mass = torch.trapezoid(p.unflatten(1, inside.shape), inside, dim=2)
        found = head.cdf(params, edges.expand(5, -1)).diff(dim=1)
        assert torch.allclose(found, mass, atol=1e-4)
    counts = DiscretisedLogistics([Column("k", "count", low=0.0, high=40.0)], 3)
    k = torch.arange(41, dtype=torch.float64)
    p = torch.stack([counts.log_prob(params, value.expand(5, 1)).exp()[:, 0] for value in k], 1)
    found = counts.cdf(params, torch.arange(-0.5, 41, dtype=torch.float64).expand(5, -1)).diff(dim=1)
    assert torch.allclose(found, p, atol=1e-12)


def test_levels_of_heads():
    heads = Heads(Space((Column("b", "binary", (0, 1)), Column("c", "categorical", tuple("xyz"))), (2,)))
    params = torch.randn(4, heads.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for d, k in ((0, 2), (1, 3)):
        one, place, _ = heads.single(d)
        found = one.heads[0].log_levels(params[:, None, place])[:, 0]
        for value in range(k):
            expected = one.log_prob(params[:, place], torch.full((4, 1), float(value), dtype=torch.float64))[:, 0]
            assert torch.allclose(found[:, value], expected)


# ----------------------------------------------------------------------------------------------------- command line


def run(*args) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_files_come_back(tmp_path, of_table, nade):
    frame(30, 1).to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "text.txt").write_text(" ".join(WORDS) + "\n\n nab\n")
    np.savez(tmp_path / "bits.npz", images=bits(9))
    models = {
        "new.csv": of_table[0],
        "text.txt": pl.ContextTable(order=2).fit(" ".join(WORDS) + "\n"),
        "bits.npz": nade,
    }
    for name, model in models.items():
        model.save(tmp_path / "m.plausible")
        code, out, err = run(
            "compress", tmp_path / "m.plausible", tmp_path / name, "-o", tmp_path / "x.pls", "--benchmark"
        )
        assert code == 0, err
        assert type(model).__name__ in out and "xz" in out and ("PNG" in out) == (name == "bits.npz")
        back = tmp_path / f"back-{name}"
        code, _, err = run("decompress", tmp_path / "m.plausible", tmp_path / "x.pls", "-o", back)
        assert code == 0 and "note" not in err, err
        if name == "bits.npz":
            assert (np.load(back)["X"] == bits(9)).all()
        else:
            assert back.read_text() == (tmp_path / name).read_text()
    code, _, err = run("decompress", tmp_path / "m.plausible", tmp_path / "x.pls", "-o", tmp_path / "pictures")
    assert code == 0 and len(list((tmp_path / "pictures").iterdir())) == 9 and "note" not in err
    code, _, err = run("decompress", tmp_path / "m.plausible", tmp_path / "bits.npz", "-o", tmp_path / "y.npz")
    assert code == 2 and "not written by compress" in err
    code, _, err = run("compress", tmp_path / "m.plausible", tmp_path / "bits.npz")
    assert code == 2 and "-o FILE" in err


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("no-header.csv", {"header": False}),
        ("semicolons.csv", {"sep": ";"}),
        ("other-order.csv", {"columns": ["c2", "c0", "c1"]}),
        ("tabs.tsv", {"sep": "\t", "header": False}),
        ("plain.csv", {}),
    ],
)
def test_a_delimited_file_comes_back_byte_for_byte(tmp_path, name, how):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"c0": rng.integers(0, 3, 40), "c1": rng.choice(["up", "down"], 40), "c2": rng.random(40)})
    table["c2"] = table["c2"].round(2)
    pl.Independent().fit(table).save(tmp_path / "m.plausible")
    table.to_csv(tmp_path / name, index=False, **how)
    args = [tmp_path / "m.plausible", tmp_path / name, "-o", tmp_path / "x.pls"]
    code, _, err = run("compress", *args)
    assert code == 0, err
    assert (note_of((tmp_path / "x.pls").read_bytes()) is None) == (name == "plain.csv")
    back = tmp_path / f"back-{name}"
    code, _, err = run("decompress", tmp_path / "m.plausible", tmp_path / "x.pls", "-o", back)
    assert code == 0 and "note" not in err, err
    assert back.read_bytes() == (tmp_path / name).read_bytes()
    code, out, _ = run("decompress", tmp_path / "m.plausible", tmp_path / "x.pls")
    assert out == (tmp_path / name).read_text()


def test_a_column_that_would_be_lost_is_refused(tmp_path, of_table):
    of_table[0].save(tmp_path / "m.plausible")
    frame(30, 1).assign(id=range(30)).to_csv(tmp_path / "new.csv", index=False)
    code, _, err = run("compress", tmp_path / "m.plausible", tmp_path / "new.csv", "-o", tmp_path / "x.pls")
    assert code == 2 and "does not know the column 'id'" in err and not (tmp_path / "x.pls").exists()


def test_recordings_come_back_whole(tmp_path):
    """They are modelled in windows, and are three all the same."""
    soundfile = pytest.importorskip("soundfile")
    rng, clips = np.random.default_rng(0), tmp_path / "clips"
    clips.mkdir()
    recordings = [rng.integers(-300, 300, n).astype(np.int16) for n in (50, 21, 33)]
    for i, samples in enumerate(recordings):
        soundfile.write(clips / f"{i}.wav", samples, 8000, subtype="PCM_16")
    model = pl.WaveNet(channels=4, skips=4, layers=2, stacks=1, epochs=1, random_state=0)
    read = pl.data.read(clips, length=20)
    model.set_params(space=read.space).fit(read.X).save(tmp_path / "m.plausible")
    code, _, err = run("compress", tmp_path / "m.plausible", clips, "-o", tmp_path / "x.pls")
    assert code == 0, err
    code, _, err = run("decompress", tmp_path / "m.plausible", tmp_path / "x.pls", "-o", tmp_path / "back")
    assert code == 0 and "Wrote 3 recordings" in err and "note" not in err
    back = [soundfile.read(file, dtype="int16")[0] for file in sorted((tmp_path / "back").iterdir())]
    assert all(np.array_equal(a, b) for a, b in zip(back, recordings, strict=True))
