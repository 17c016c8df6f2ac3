"""`plausible impute` and `plausible query`: the files they write, the numbers they print, what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.uses import query


def run(*args) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tables with and without holes, images, texts, and a model of each."""
    home, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    x = rng.normal(size=200)
    table = pd.DataFrame({"x": x, "y": 2 * x + rng.normal(size=200), "kind": np.where(x > 0, "up", "down")})
    pl.Mixture(n_components=2, random_state=0).fit(table).save(home / "rows.plausible")
    table.mask(rng.random(table.shape) < 0.3).head(20).to_csv(home / "holes.csv", index=False)
    top = rng.integers(0, 2, (200, 1, 4))
    images = np.concatenate([top, top], 1).astype(np.uint8)  # the lower half repeats the upper
    pl.Mixture(n_components=16, random_state=0).fit(images).save(home / "images.plausible")
    np.save(home / "images.npy", np.concatenate([top, 0 * top], 1).astype(np.uint8)[:30])
    np.save(home / "mask.npy", np.array([[False] * 4, [True] * 4]))
    pl.Markov(random_state=0).fit(["abab", "baba", "ab", "ba"] * 9).save(home / "words.plausible")
    (home / "words.txt").write_text("a_a_\n_b\n")
    return home


def test_impute_fills_the_holes_and_leaves_the_rest(folder, tmp_path):
    holes = pd.read_csv(folder / "holes.csv")
    code, _, err = run(
        "impute", folder / "rows.plausible", folder / "holes.csv", "-o", tmp_path / "f.csv", "--draws", 3
    )
    assert code == 0, err
    found = [pd.read_csv(tmp_path / f"f-{i}.csv") for i in (1, 2, 3)]
    for filled in found:
        assert filled.notna().all().all() and filled.where(holes.notna()).equals(holes)
    assert not found[0].equals(found[1])
    code, out, _ = run("impute", folder / "rows.plausible", folder / "holes.csv", "--how", "mean", "--seed", 0)
    assert code == 0 and len(out.splitlines()) == 21


def test_impute_learns_from_the_table_itself(folder, tmp_path):
    holes = pd.read_csv(folder / "holes.csv")
    sets = ("--set", "n_components=1", "--set", "n_components=2", "--set", "n-init=1")
    args = ("--model", "mixture", *sets, "--fits", 2, "--seed", 0, "-o", tmp_path / "f.csv")
    code, _, err = run("impute", folder / "holes.csv", *args, "--how", "mean", "--level", 0.5)
    assert code == 0 and err.count("weight ") == 2 and "n_components = 2" in err, err
    full, low, high = (pd.read_csv(tmp_path / f"f{end}.csv") for end in ("", "-low", "-high"))
    assert full.notna().all().all() and full.where(holes.notna()).equals(holes)
    assert (low["x"] <= high["x"]).all() and ((low["x"] < high["x"]) == holes["x"].isna()).all()
    code, _, err = run("impute", folder / "holes.csv", *args, "--draws", 2)
    drawn = [pd.read_csv(tmp_path / f"f-{i}.csv") for i in (1, 2)]
    assert code == 0 and all(d.where(holes.notna()).equals(holes) for d in drawn) and not drawn[0].equals(drawn[1])


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["holes.csv"], "--model NAME"),
        (["holes.csv", "--model", "made"], "mixture"),
        (["holes.csv", "--model", "mixture", "--set", "n_components=x"], "got 'x'"),
        (["holes.csv", "--model", "mixture", "--set", "colour=2"], "n_components"),
        (["holes.csv", "--model", "mixture", "--how", "likely"], "draw and mean"),
        (["holes.csv", "--model", "mixture", "--level", "0.9"], "-o FILE"),
        (["holes.csv", "--model", "mixture", "--method", "auto"], "needs a MODEL"),
        (["rows.plausible", "holes.csv", "--model", "mixture"], "leave out MODEL"),
    ],
)
def test_impute_without_a_model_says_what_is_wrong(folder, args, word):
    args = [folder / a if "." in a and "0." not in a else a for a in args]
    code, _, err = run("impute", *args)
    assert code != 0 and word in err


def test_impute_images_through_a_mask(folder, tmp_path):
    args = ("--mask", folder / "mask.npy", "-o", tmp_path / "full.npy", "--seed", 0)
    code, _, err = run("impute", folder / "images.plausible", folder / "images.npy", *args)
    assert code == 0, err
    full, known = np.load(tmp_path / "full.npy"), np.load(folder / "images.npy")
    assert (full[:, 0] == known[:, 0]).all() and (full[:, 1] == full[:, 0]).mean() > 0.9


def test_impute_says_that_nothing_is_missing(folder):
    code, _, err = run("impute", folder / "images.plausible", folder / "images.npy", "-o", folder / "same.npy")
    assert code == 0 and "nothing is missing" in err and "--mask FILE" in err
    assert (np.load(folder / "same.npy") == np.load(folder / "images.npy")).all()
    (folder / "whole.txt").write_text("ab\nabab\n")
    code, out, err = run("impute", folder / "words.plausible", folder / "whole.txt")
    assert code == 0 and "nothing is missing" in err and "--blank" in err and out == "ab\nabab\n"


def test_impute_the_blanks_of_texts(folder):
    code, out, err = run("impute", folder / "words.plausible", folder / "words.txt", "--blank", "_", "--method", "auto")
    assert code == 0 and "exact draws" in err
    assert re.fullmatch(r"a[ab]a[ab]\n[ab]b\n", out)


def test_query_prints_what_python_says(folder):
    model = pl.load(folder / "rows.plausible")
    code, out, err = run(
        "query", folder / "rows.plausible", "y > 1", "--given", "kind=up", "--mean", "x", "--quantile", "y=0.9"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == f"P(y > 1) = {query.probability(model, 'y > 1', {'kind': 'up'})!r}" and "exact" in lines[0]
    assert lines[1] == f"mean of x = {query.mean(model, 'x', {'kind': 'up'})!r}"
    code, out, _ = run("query", folder / "rows.plausible", "--covariance", "x,y", "--given", "kind=up")
    found = query.covariance(model, ["x", "y"], {"kind": "up"})
    assert code == 0 and out == f"covariance of x,y:\n{found!r}\n" and found.method == "closed form"
    assert lines[2] == f"0.9 quantile of y = {query.quantile(model, 'y', 0.9, {'kind': 'up'})!r}"


def test_mistakes(folder):
    rows, holes = folder / "rows.plausible", folder / "holes.csv"
    for args in (
        ("query", rows),
        ("query", rows, "y >"),
        ("query", rows, "z > 1"),
        ("query", rows, "y > 1", "--given", "kind=left"),
        ("query", rows, "--quantile", "y"),
        ("impute", rows, holes, "--draws", 3),
        ("impute", rows, holes, "--how", "guess"),
        ("impute", rows, holes, "--mask", folder / "none.png"),
    ):
        code, out, err = run(*args)
        assert code == 2 and out == "" and err.splitlines()[-1].startswith("plausible: error: ")


def test_a_wrong_column_is_answered_with_how_many_there_are(tmp_path):
    """Of ten columns eight are named; a list that ends without a word reads as if it were all."""
    rows = np.random.default_rng(0).normal(size=(30, 10))
    pd.DataFrame(rows, columns=[f"x{i}" for i in range(10)]).to_csv(tmp_path / "wide.csv", index=False)
    model, data = tmp_path / "wide.plausible", tmp_path / "wide.csv"
    assert run("fit", data, "--model", "gaussian", "-o", model)[0] == 0
    for args in (
        ("query", model, "x1 > 0", "--given", "y=1"),
        ("balance", model, data, "--group", "y=1", "--target", "0.5", "-o", tmp_path / "even.csv"),
        ("augment", model, data, "--label", "y", "-o", tmp_path / "more.csv"),
    ):
        code, _, err = run(*args)
        assert code != 0 and "x7, ... (10 in all)" in err
