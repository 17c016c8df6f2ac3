"""Maps: bits that add up to log_prob, means and entropies that are those of the law, pictures of the odd pixel."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.errors import CapabilityError, DataError
from plausible.uses import _map_files, maps

TINY = {"epochs": 2, "learning_rate": 0.02, "batch_size": 32, "random_state": 0}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 300
    colour = np.array(["blue", "green", "red"], dtype=object)[rng.integers(0, 3, n)]
    member = rng.random(n) < np.where(colour == "red", 0.9, 0.2)
    visits = rng.poisson(3 + 40 * member)  # a count: more than 32 values
    grade = rng.binomial(4, 0.5, n)
    return pd.DataFrame(
        {"colour": colour, "member": member, "visits": visits, "grade": grade, "length": rng.normal(170, 10, n)}
    )


@pytest.fixture(scope="module")
def of_table(table):
    return pl.MADE(hidden=(8,), components=3, **TINY).fit(table)


@pytest.fixture(scope="module")
def of_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (400, 1, 1)).repeat(4, 1).repeat(4, 2).astype(np.uint8)  # all black or all white
    return pl.PixelRNN(channels=8, layers=1, **TINY | {"epochs": 10}).fit(images), images


def law(model, X, d, values) -> np.ndarray:
    """p(x_d = v | x_<d) of each example, from log_prob alone: (n, values)."""
    many = X.loc[X.index.repeat(len(values))].reset_index(drop=True)
    many[X.columns[d]] = pd.Series(list(values) * len(X)).astype(X.dtypes.iloc[d])
    return np.exp(model.log_prob(many, reduce=None)[:, d]).reshape(len(X), -1)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(np.maximum(p, 1e-300))).sum(1)


def test_bits_add_up_to_log_prob(of_table, table):
    bits = maps.surprise(of_table, table)
    assert bits.shape == table.shape
    np.testing.assert_allclose(bits.sum(1), -of_table.log_prob(table) / math.log(2), atol=1e-9)


def test_means_and_entropies_are_those_of_the_law(of_table, table):
    """Against the sum over all values of a column, and for a real the integral."""
    X = table.iloc[:3].reset_index(drop=True)
    found = maps.conditionals(of_table, X)
    p = law(of_table, X, 0, ["blue", "green", "red"])
    np.testing.assert_allclose(entropy(p), found.entropy[:, 0], atol=1e-9)
    assert np.isnan(found.mean[:, 0]).all() and (found.likeliest[:, 0] == p.argmax(1)).all()
    for d, values in ((1, [False, True]), (2, range(300)), (3, range(5))):
        p = law(of_table, X, d, values)
        assert p.sum(1) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(found.mean[:, d], p @ np.array(values, dtype=float), rtol=1e-5)
        np.testing.assert_allclose(found.entropy[:, d], entropy(p), atol=1e-4)
    values = np.linspace(70, 270, 2001)
    p = law(of_table, X, 4, values)
    dx = values[1] - values[0]
    np.testing.assert_allclose(found.mean[:, 4], (p @ values) * dx, rtol=1e-6)
    np.testing.assert_allclose(found.entropy[:, 4], entropy(p) * dx, atol=0.05)  # of draws


def test_a_count_of_many_values_is_taken_as_a_line():
    X = pd.DataFrame({"pay": np.random.default_rng(0).integers(0, 200_000, 300)})
    model = pl.MADE(hidden=(4,), components=2, **TINY).fit(X)
    found = maps.conditionals(model, X.iloc[:1])
    values = np.arange(0, 3_000_000, 7)
    p = np.exp(model.log_prob(pd.DataFrame({"pay": values})))
    top = 1 - p[1:].sum() * 7  # what lies at zero itself
    assert found.mean[0, 0] == pytest.approx(p[1:] @ values[1:] * 7, rel=1e-3)
    whole = -(p[1:] * np.log2(p[1:])).sum() * 7 - top * np.log2(top)
    assert found.entropy[0, 0] == pytest.approx(whole, abs=0.2)


def test_of_sound_the_mean_is_that_of_the_samples_of_16_bits():
    rng = np.random.default_rng(0)
    clips = pl.space.Clips([(3000 * rng.standard_normal(3)).astype(np.int16) for _ in range(60)], 8000)
    model = pl.RNN(hidden=4, **TINY).fit(clips)
    every = np.arange(-32768, 32768)
    p = np.exp(model.log_prob(pl.space.Clips(list(every[:, None]), 8000)))  # of clips that end after one sample
    found = maps.conditionals(model, pl.space.Clips(clips[:1], 8000))
    assert found.mean[0, 0] == pytest.approx(p @ every, abs=1e-3)
    assert found.entropy[0, 0] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-6)


def test_colours_lie_as_the_images_do():
    images = np.random.default_rng(0).integers(0, 2, (60, 2, 4, 3)).astype(np.uint8)  # (n, H, W, C)
    model = pl.PixelRNN(channels=4, layers=1, **TINY).fit(images)
    found = maps.conditionals(model, images[:5])
    assert found.mean.shape == found.surprise.shape == (5, 2, 4, 3)
    p = np.where(images[:5] == 1, found.mean, 1 - found.mean)  # of bits, the mean is p(1)
    np.testing.assert_allclose(found.surprise, -np.log2(p), atol=1e-9)


def test_what_has_ended_is_missing():
    texts = ["ab", "abab", "a", "b"] * 20
    model = pl.RNN(hidden=4, **TINY).fit(texts)
    found = maps.conditionals(model, ["ab", "abab"])
    assert np.isnan(found.surprise[0]).tolist() == [False, False, False, True]  # the end is a character too
    assert (np.isnan(found.entropy) == np.isnan(found.surprise)).all()
    assert np.nansum(found.surprise, 1) == pytest.approx(-model.log_prob(["ab", "abab"]) / math.log(2))


# ------------------------------------------------------------------------------------------------- what stands out


def test_the_planted_cell_comes_first():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 400)
    X = pd.DataFrame({"a": a, "b": a, "x": a + 0.1 * rng.standard_normal(400)})
    model = pl.MADE(hidden=(16,), **TINY | {"epochs": 20}).fit(X)
    odd = X.iloc[:50].copy()
    odd.loc[7, "b"] = 1 - odd.loc[7, "b"]
    first = maps.surprising(model, odd, 3).iloc[0]
    assert (first["example"], first["cell"]) == (7, "b")
    assert (first["value"], first["expected"]) == (odd.loc[7, "b"], a[7])
    assert first["bits"] > first["usual"] + 2


def test_of_texts_it_says_what_stood_before():
    model = pl.RNN(hidden=16, **TINY | {"epochs": 20}).fit(["abcabcabc"] * 60 + ["abcacb"] * 4)
    found = maps.surprising(model, ["abcabcabc", "abcacb"], 1).iloc[0]
    assert (found["example"], found["cell"], found["before"]) == (1, "character 4", "abca")
    assert (found["value"], found["expected"]) == ("c", "b")


def test_pixels_have_names(of_images):
    space = of_images[0].space_
    assert maps.cell_name(space, 6) == "row 1, column 2"
    colour = pl.space.Image.of((3, 2, 2), space.pixel, "CHW", "uint8")
    assert maps.cell_name(colour, 5) == "row 0, column 1, green"


def test_without_conditionals_it_says_who_has_some(table):
    with pytest.raises(CapabilityError, match="made"):
        maps.conditionals(pl.Independent().fit(table), table)


# ----------------------------------------------------------------------------------------------------------- files


def test_the_picture_shows_the_odd_pixel(of_images, tmp_path):
    model, images = of_images
    odd = images[images[:, 0, 0] == 0][:1].copy()
    odd[0, 2, 1] = 1
    with Image.open(maps.write(model, odd, tmp_path / "maps.png")) as picture:
        page = np.asarray(picture)
    times = _map_files.TILE // 4
    height = 4 * times
    left = page.shape[1] - _map_files.MARGIN - 7 * _map_files.TILE
    top = _map_files.MARGIN + 2 * (height + _map_files.GAP)  # the third row
    tile = page[top : top + height, left : left + height].reshape(4, times, 4, times, 3)
    assert (tile == tile[:, :1, :, :1]).all()  # a pixel is a square of one colour
    lightness = tile[:, 0, :, 0].astype(int).sum(-1)
    assert lightness.argmin() == 9 and lightness[0, 0] > 2 * lightness[2, 1]
    first = page[_map_files.MARGIN :][:height, left : left + height].reshape(4, times, 4, times, 3)[:, 0, :, 0, 0]
    assert (first == 255 * odd[0]).all()


def test_colours_of_the_scale_darken():
    scale = pl.evaluate.drawing.Axis.over([0, 8], pad=0.0)
    light = _map_files.coloured(np.linspace(0, 8, 50), scale).astype(int) @ [2126, 7152, 722]
    assert (np.diff(light) < 0).all()
    assert (_map_files.coloured(np.array([9.0, -1.0]), scale) == [_map_files.RAMP[-1], _map_files.RAMP[0]]).all()


@pytest.mark.parametrize("name", ["bits.csv", "bits.npy", "bits.npz"])
def test_numbers_to_files(of_table, table, tmp_path, name):
    path = maps.write(of_table, table, tmp_path / name)
    if path.suffix == ".csv":
        found = pd.read_csv(path)
        assert list(found.columns) == list(table.columns)
    else:
        found = np.load(path) if path.suffix == ".npy" else np.load(path)["surprise"]
    np.testing.assert_allclose(found, maps.surprise(of_table, table), atol=1e-9)
    with pytest.raises(DataError, match=".csv"):
        maps.write(of_table, table, tmp_path / "bits.png")


def test_command_line(of_images, of_table, table, tmp_path):
    def run(*args):
        return CliRunner().invoke(app, ["surprise", *map(str, args)])

    model, images = of_images
    model.save(tmp_path / "images.plausible")
    of_table.save(tmp_path / "table.plausible")
    np.savez(tmp_path / "images.npz", images=images[:20])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert run(tmp_path / "images.plausible", tmp_path / "images.npz", "-o", tmp_path / "m.png", "-n", 3).exit_code == 0
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size[0] > 3 * _map_files.TILE
    printed = run(tmp_path / "table.plausible", tmp_path / "table.csv", "-n", 5)
    lines = printed.stdout.splitlines()
    assert printed.exit_code == 0 and len(lines) == 6
    assert lines[0].split() == ["example", "cell", "value", "expected", "bits", "usual"]
    refused = run(tmp_path / "table.plausible", tmp_path / "table.csv", "-o", tmp_path / "m.png")
    assert refused.exit_code != 0


def test_a_context_may_lie_in_a_file_of_its_own(table, tmp_path):
    X, c = table[["grade", "visits"]], table[["colour"]]
    model = pl.MADE(hidden=(8,), **TINY).fit(X, context=c)
    model.save(tmp_path / "m.plausible")
    X.head(9).to_csv(tmp_path / "x.csv", index=False)
    c.head(9).to_csv(tmp_path / "c.csv", index=False)
    args = ["surprise", "m.plausible", "x.csv", "-o", "bits.npy", "--context", "c.csv"]
    args = [str(tmp_path / a) if "." in a else a for a in args]
    assert CliRunner().invoke(app, args).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "bits.npy"), maps.surprise(model, X.head(9), context=c.head(9)))


def test_a_first_character_may_stand_out_and_no_example_has_no_cell():
    strings = ["ab", "ba", "aa", "bb"] * 20
    model = pl.RNN(hidden=4, epochs=1, random_state=0).fit(strings)
    found = maps.surprising(model, strings[:4], 20)
    assert set(found.loc[found["cell"] == "character 0", "before"]) == {""}
    assert list(maps.surprising(model, []).columns) == list(found.columns)
    assert len(maps.surprising(model, [])) == 0
    assert maps.conditionals(model, []).mean.shape[0] == 0
    with pytest.raises(DataError, match="at least 1"):
        maps.surprising(model, strings[:4], 0)
