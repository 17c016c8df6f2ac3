"""Does a fitted model copy? Kernel densities that must and must not be caught, and the test itself under its null."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.errors import DataError, PlausibleWarning, SpaceError
from plausible.evaluate.novelty import copying, data_copying
from plausible.uses.novelty import novelty


def moons(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X = pl.data.two_moons(600, random_state=seed)
    return X[:300], X[300:]


@pytest.mark.parametrize("seed", range(4))
def test_an_overfitted_kernel_density_is_caught_and_a_good_one_passes(seed):
    train, held_out = moons(seed)
    tiny = novelty(pl.KernelDensity(bandwidth=0.002).fit(train), train, held_out, random_state=seed)
    assert tiny.memorised
    assert tiny.copying.z < -10
    assert tiny.summary.ratio < 0.2
    good = novelty(pl.KernelDensity().fit(train), train, held_out, random_state=seed)
    assert not good.memorised
    assert 0.7 < good.summary.ratio < 1.4


def test_a_wide_model_is_not_accused():
    train, held_out = moons(0)
    wide = novelty(pl.Gaussian().fit(train), train, held_out, random_state=0)
    assert not wide.memorised
    assert "further" in wide.verdict


def test_copies_among_discrete_rows_are_told_from_twins():
    """A table of frequencies hands out training rows; so do held-out rows of few bits, and nobody is to blame."""
    rng = np.random.default_rng(0)
    few = rng.integers(0, 2, (800, 4))
    found = novelty(pl.Independent().fit(few[:400]), few[:400], few[400:], random_state=0)
    assert found.overlap == 400
    assert not found.memorised
    many = rng.integers(0, 2, (800, 30))
    by_heart = pl.Independent().fit(many[:400])

    def half_copies(n, *, context=None, random_state=None):  # the distances alone do not give it away
        draw = np.random.default_rng(random_state)
        copies = many[draw.integers(400, size=n)]
        return np.where(draw.random((n, 1)) < 0.5, copies, draw.integers(0, 2, copies.shape))

    by_heart.sample = half_copies
    found = novelty(by_heart, many[:400], many[400:], random_state=0)
    assert found.memorised
    assert found.summary.copies > 0.4 > found.summary.real_copies
    assert found.copies_p_value < 1e-10


@pytest.mark.parametrize("cells", [1, 5])
def test_z_is_standard_normal_where_nothing_is_copied(cells):
    rng = np.random.default_rng(cells)
    train = rng.normal(size=(200, 2))
    z = [
        data_copying(*(rng.normal(size=(m, 2)) if m else train for m in (150, 0, 250)), cells=cells).z
        for _ in range(120)
    ]
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_one_cell_is_the_mann_whitney_test():
    rng = np.random.default_rng(0)
    made, real = rng.integers(0, 6, 80).astype(float), rng.integers(1, 7, 120).astype(float)  # many ties
    found = copying(made, real)
    peer = stats.mannwhitneyu(made, real, alternative="less", method="asymptotic", use_continuity=False)
    assert found.p_value == pytest.approx(peer.pvalue, rel=1e-9)
    assert found.further == pytest.approx(peer.statistic / (80 * 120))
    assert copying(np.zeros(30), np.zeros(30)).z == 0


def test_copies_in_one_corner_are_seen_by_cells():
    """A third of the mass is copied, the rest is drawn too widely; each cell says so of itself."""
    rng = np.random.default_rng(0)
    corner = rng.random(3000) < 0.3
    X = rng.normal(size=(3000, 2)) + 12 * corner[:, None]
    train, held_out = X[:1000], X[1000:2000]
    here = corner[:1000]
    made = X[2000:].copy()
    there = corner[2000:]
    made[there] = train[here][rng.integers(here.sum(), size=there.sum())] + rng.normal(0, 0.01, (there.sum(), 2))
    made[~there] += rng.normal(0, 0.8, (int((~there).sum()), 2))
    cells = data_copying(made, train, held_out, cells=2)
    assert min(z for _, z in cells.cells) < -8 < 2 < max(z for _, z in cells.cells)


def test_rows_that_were_not_held_out_are_said_and_left_out():
    train, held_out = moons(0)
    model = pl.KernelDensity(bandwidth=0.002).fit(train)
    mixed = np.concatenate([held_out[:150], train[:150]])
    with pytest.warns(PlausibleWarning, match="150 of 300 held-out rows are training rows"):
        found = novelty(model, train, mixed, random_state=0)
    assert found.overlap == 150
    assert found.memorised
    with pytest.warns(PlausibleWarning), pytest.raises(DataError, match="at least 20 held-out rows"):
        novelty(model, train, train, random_state=0)
    other = novelty(model, train[::-1], held_out, random_state=0)
    assert "other rows" in " ".join(other.notes)
    with pytest.raises(SpaceError):
        novelty(model, train, np.zeros((30, 3)))


def test_pairs_are_the_nearest_rows():
    train, held_out = moons(1)
    model = pl.KernelDensity().fit(train)
    found = novelty(model, train, held_out, random_state=0)
    made, real, distance = found.pairs(5)
    scale = train.std(0)
    gaps = np.linalg.norm((made[:, None] - train) / scale, axis=2)
    np.testing.assert_allclose(distance, gaps.min(1), rtol=1e-6)
    np.testing.assert_allclose(real, train[gaps.argmin(1)])
    assert (np.diff(found.distance[np.argsort(found.distance)]) >= 0).all()
    shown = found.table(3)
    assert shown.shape == (6, 3)
    np.testing.assert_allclose(shown.xs("sample", level=1)[[0, 1]], made[:3])
    np.testing.assert_allclose(shown.xs("training row", level=1)[[0, 1]], real[:3])


def test_mixed_table_with_holes_and_context():
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b"], 400)
    X = pd.DataFrame({"length": rng.normal(4 * (y == "a"), 1), "colour": rng.choice(["red", "blue", "green"], 400)})
    X.loc[::7, "length"] = np.nan
    model = pl.NaiveBayes(random_state=0).fit(X[:200], context=y[:200])
    found = novelty(model, X[:200], X[200:], context=y[200:], random_state=0)
    assert not found.memorised
    assert list(found.table(2).columns) == ["distance", "length", "colour"]


def test_pictures_and_pages(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (120, 6, 5)).astype(np.uint8)
    model = pl.Independent(random_state=0).fit(images[:80])
    found = novelty(model, images[:80], images[80:], random_state=0)
    picture = Image.open(io.BytesIO(found.write(tmp_path / "pairs.png", 4).read_bytes()))
    page = found.write(tmp_path / "pairs.html", 4).read_text()
    assert picture.size[0] > picture.size[1] * 0.9
    assert page.count("data:image/png") == 8
    texts = ["".join(rng.choice(list("abc"), 6)) for _ in range(200)]
    said = novelty(pl.Markov(random_state=0).fit(texts[:120]), texts[:120], texts[120:], random_state=0)
    assert said.write(tmp_path / "pairs.csv").read_text().count("training row") == 12
    assert "<script" not in said.write(tmp_path / "texts.html").read_text()
    with pytest.raises(DataError, match=r"\.html, \.png"):
        found.write(tmp_path / "pairs.csv")


def test_command(tmp_path):
    train, held_out = (pd.DataFrame(x, columns=["a", "b"]) for x in moons(0))
    for name, X in (("train", train), ("test", held_out)):
        X.to_csv(tmp_path / f"{name}.csv", index=False)
    pl.KernelDensity(bandwidth=0.002).fit(train).save(tmp_path / "m.plausible")
    words = ["novelty", *(str(tmp_path / f) for f in ("m.plausible", "train.csv", "test.csv")), "--seed", "1"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "pairs.html")])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("the model copies")
    assert "other rows" not in done.stdout
    assert "training" in (tmp_path / "pairs.html").read_text()
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "pairs.xyz")]).exit_code == 2
