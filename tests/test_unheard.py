"""Rows with a value that no row of the fit could have had do not stop a file: what each command says of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.errors import DataError, PlausibleWarning, SpaceError
from plausible.evaluate import likelihood
from plausible.space import infer
from plausible.space.unheard import tamed
from plausible.uses import given, maps
from plausible.uses.novelty import novelty

SAID = "3 of 60 rows hold values that no row of the fit could have had ('kind': 'left', 'right'; 'visits': 2.5)"
ODD = [3, 7, 9]


def rows(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "kind": np.where(x > 0, "up", "down"), "visits": rng.poisson(3 + 40 * (x > 0))})


@pytest.fixture(scope="module")
def new() -> pd.DataFrame:
    """Sixty rows, of which three hold what none of the fit could have."""
    found = rows(60, 1).astype({"visits": float})
    found.loc[3, "kind"], found.loc[7, "kind"], found.loc[9, "visits"] = "left", "right", 2.5
    return found


@pytest.fixture(scope="module")
def mixture() -> pl.Mixture:
    return pl.Mixture(n_components=2, random_state=0).fit(rows(400, 0))


@pytest.fixture(scope="module")
def made() -> pl.MADE:
    return pl.MADE(hidden=(8,), epochs=2, random_state=0).fit(rows(400, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, new, mixture, made):
    home = tmp_path_factory.mktemp("unheard")
    mixture.save(home / "mixture.plausible")
    made.save(home / "made.plausible")
    new.to_csv(home / "new.csv", index=False)
    rows(400, 0).to_csv(home / "rows.csv", index=False)
    return home


def run(*args) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("framed", [True, False])
def test_such_cells_are_found_and_nothing_else_changes(new, framed):
    space = infer(rows(400, 0) if framed else rows(400, 0).to_numpy(dtype=object))
    X = new if framed else new.to_numpy(dtype=object)
    for missing in (False, True):
        known, unheard = tamed(space, X, missing)
        where = np.zeros(new.shape, dtype=bool)
        where[[3, 7, 9], [1, 1, 2]] = True
        np.testing.assert_array_equal(unheard.where, where)
        codes = space.encode(known).numpy()
        assert np.isnan(codes[where]).all() == missing and not np.isnan(codes[~where]).any()
        np.testing.assert_array_equal(codes[~where], space.encode(tamed(space, X)[0]).numpy()[~where])
    assert (new if framed else pd.DataFrame(X, columns=new.columns))["kind"][3] == "left"  # the caller's are left alone


def test_a_clean_table_is_passed_on_as_it_is(new):
    X = new.drop(ODD)
    known, unheard = tamed(infer(rows(400, 0)), X)
    assert known is X and unheard is None


def test_score(folder, new, mixture):
    code, out, err = run("score", folder / "mixture.plausible", folder / "new.csv", "--per-example")
    assert code == 0 and err.splitlines()[0] == f"plausible: warning: {SAID}; their log p is -inf"
    found = np.array(out.split()[1:], dtype=float)
    assert np.flatnonzero(np.isneginf(found)).tolist() == ODD
    clean = mixture.log_prob(new.drop(ODD))
    np.testing.assert_allclose(np.delete(found, ODD), clean)
    code, out, _ = run("score", folder / "mixture.plausible", folder / "new.csv")
    assert out.endswith(f"60 rows); 3 rows called impossible, {clean.mean():.2f} nats without\n")
    with pytest.warns(PlausibleWarning, match="their log p is -inf"):
        assert likelihood(mixture, new).n_impossible == 3
    with pytest.raises(SpaceError, match="a level not seen when fitting"):
        mixture.log_prob(new)


def test_impute_refuses_and_says_what_to_do_or_fills_in(folder, new, mixture, tmp_path):
    holes = new.copy()
    holes.loc[[3, 20], "x"] = None
    holes.to_csv(tmp_path / "holes.csv", index=False)
    args = ("impute", folder / "mixture.plausible", tmp_path / "holes.csv", "-o", tmp_path / "full.csv", "--seed", 0)
    code, _, err = run(*args)
    assert code == 2 and SAID in err and "the first of them row 4" in err and "--unseen missing" in err
    assert not (tmp_path / "full.csv").exists()
    code, _, err = run(*args, "--unseen", "missing")
    assert code == 0 and f"{SAID}; these cells are taken for missing" in err
    full = pd.read_csv(tmp_path / "full.csv")
    assert full.notna().all().all() and set(full["kind"]) == {"up", "down"}
    np.testing.assert_allclose(full["x"].drop([3, 20]), holes["x"].drop([3, 20]))
    blank = holes.astype(object)
    blank.loc[[3, 7], "kind"] = blank.loc[9, "visits"] = None
    with pytest.warns(PlausibleWarning, match="filled in"):
        found = given.impute(mixture, holes, unseen="missing", random_state=0)
    pd.testing.assert_frame_equal(found, given.impute(mixture, blank, random_state=0))
    with pytest.raises(DataError, match="'refuse' or 'missing'"):
        given.impute(mixture, holes, unseen="guess")


def test_surprise(folder, new, made):
    code, out, err = run("surprise", folder / "made.plausible", folder / "new.csv", "-n", 4)
    assert code == 0 and SAID in err
    cells = [line.split()[:3] for line in out.splitlines()[1:4]]
    assert cells == [["3", "kind", "left"], ["7", "kind", "right"], ["9", "visits", "2.5"]]
    with pytest.warns(PlausibleWarning, match="nothing follows"):
        bits = maps.surprise(made, new)
    clean = maps.surprise(made, new.drop(ODD))
    np.testing.assert_allclose(np.delete(bits, ODD, 0), clean)
    assert np.isposinf(bits[[3, 7, 9], [1, 1, 2]]).all() and np.isnan(bits[[3, 7], 2]).all()
    assert np.isfinite(bits[[3, 7, 9], 0]).all() and np.isfinite(bits[9, 1])
    with pytest.warns(PlausibleWarning):
        found = maps.conditionals(made, new)
    assert np.isnan(found.entropy[[3, 7], 2]).all() and np.isfinite(found.entropy[[3, 9], [1, 2]]).all()


def test_novelty(folder, new, mixture):
    code, out, _ = run("novelty", folder / "mixture.plausible", folder / "rows.csv", folder / "new.csv", "--seed", 0)
    assert code == 0 and f"{SAID}, and are left out here" in out
    with pytest.warns(PlausibleWarning, match="left out here"):
        found = novelty(mixture, rows(400, 0), new, random_state=0)
    clean = novelty(mixture, rows(400, 0), new.drop(ODD), random_state=0)
    assert str(clean.summary) == str(found.summary) and len(found.distance) == 57
    with pytest.raises(SpaceError):  # these are not the rows of the fit
        novelty(mixture, new, rows(60, 2))
