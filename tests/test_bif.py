"""BIF files: what is read, what is written, what is refused and where; and models from and to them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from typer.testing import CliRunner

import plausible as pl
from networks import ASIA, FOLDER, enumerated, factors_of
from plausible.cli import app
from plausible.errors import DataError, ReadError
from plausible.families.direct._bif import Network, parse, read_bif, to_text, write_bif
from plausible.uses import given as ask

TWO = """
variable a { type discrete [ 2 ] { y, n }; }
variable b { type discrete [ 3 ] { u, v, w }; }
variable c { type discrete [ 2 ] { y, n }; }
"""
ROOTS = "probability ( a ) { table 0.2, 0.8; } probability ( b ) { table 0.5, 0.3, 0.2; }\n"
# bnlearn's counts (free parameters: what is left when every distribution adds up to one).
COUNTS = {
    "alarm": (37, 46, 509),
    "asia": (8, 8, 18),
    "cancer": (5, 4, 10),
    "child": (20, 25, 230),
    "earthquake": (5, 4, 10),
    "insurance": (27, 52, 1008),
    "sachs": (11, 17, 178),
    "survey": (6, 6, 21),
    "water": (32, 66, 10083),
}


def same(a: Network, b: Network) -> bool:
    tables = all(np.array_equal(a.tables[v], b.tables[v]) for v in a.variables)
    return tables and (a.name, a.variables, a.parents) == (b.name, b.variables, b.parents)


def numbers(text: str) -> list[str]:
    """The printed probabilities, without trailing zeros."""
    bodies = re.findall(r"(?:\)|table)([-\d., e]+);", text)
    return [f"{float(x)!r}" for body in bodies for x in body.split(",")]


# ------------------------------------------------------------------------------------------------------- reading


def test_asia():
    network = parse(ASIA)
    assert list(network.variables) == ["asia", "tub", "smoke", "lung", "bronc", "either", "xray", "dysp"]
    assert network.parents["either"] == ("lung", "tub") and network.parents["smoke"] == ()
    assert network.tables["lung"].tolist() == [[0.1, 0.01], [0.9, 0.99]]
    assert network.tables["dysp"][0, 1, 0] == 0.7  # yes, given (no, yes)
    assert to_text(network) == ASIA


def test_other_ways_to_write_the_same():
    loose = """
    // made by hand
    network "two words" { property version "1; 0"; property author me ; }
    /* with a comment
       on two lines */
    variable "a" { type discrete[2] { "y" "n" }; property position = (73, 165); }
    variable b{type discrete [ 3 ]{u,v,w};}
    variable c { property x; type discrete { y, n }; }
    probability("a"){table 0.2 0.8;}
    probability ( c | a, b ) { default 0.5, 0.5; (y, w) 0.1 .9; property last; (n, u) 1e-1, 9E-1; }
    probability ( b a ) { table 0.1 0.2  0.3 0.4  0.6 0.4; }
    """
    network = parse(loose)
    assert network.name == "two words" and network.variables["a"] == ("y", "n")
    assert network.parents == {"a": (), "b": ("a",), "c": ("a", "b")}
    # In a table the child's state changes slowest.
    assert network.tables["b"].tolist() == [[0.1, 0.2], [0.3, 0.4], [0.6, 0.4]]
    assert network.tables["c"][0].tolist() == [[0.5, 0.5, 0.1], [0.1, 0.5, 0.5]]
    assert same(parse(to_text(network)), network)


def test_states_that_look_like_something_else():
    text = """network n {}
    variable CO2 { type discrete [ 4 ] { <7.5, >=7.5, Asy/Patch, 5-12 }; }
    probability ( CO2 ) { table 0.25, 0.25, 0.25, 0.25; }"""
    assert parse(text).variables["CO2"] == ("<7.5", ">=7.5", "Asy/Patch", "5-12")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected at least one variable; this is at the end of the file"),
        ("network n {\n}\nvariables a {", "line 3: expected 'network', 'variable' or 'probability'; this is at 'var"),
        ("network n {\n", "line 2: expected '}'; this is at the end of the file"),
        (TWO + "variable a { type discrete [ 1 ] { y }; }", "line 5: expected each variable once, and 'a' is there"),
        ("variable a {\n type continuous; }", "line 2: expected 'discrete'"),
        ("variable a {\n type discrete [ 3 ] { y, n }; }", "line 2: expected 3 states, found 2"),
        ("variable a { type discrete [ x ] { y, n }; }", "line 1: expected the number of states; this is at 'x'"),
        ("variable a { type discrete [ 2 ] { y, y }; }", "expected at least one state, and all different"),
        ("variable a { }", "expected 'type discrete' and the states of 'a'"),
        ("variable a {\n states y n; }", "line 2: expected 'property', or a statement that belongs here"),
        (TWO + "probability ( a | q ) {", "line 5: expected variables that were declared before, and 'q' was not"),
        (TWO + "probability ( a | b, b ) {", "line 5: expected one block for each variable, and each parent once"),
        (TWO + ROOTS + "probability ( a ) { table 0.1, 0.9; }", "line 6: expected one block for each variable"),
        (TWO + "probability ( a ) {\n table 0.1, 0.9, 0; }", "line 6: expected 2 numbers, found 3"),
        (TWO + "probability ( a ) {\n table 0.1, x; }", "line 6: expected numbers, found '0.1 x'"),
        (TWO + "probability ( a ) {\n table nan, 1; }", "line 6: expected finite numbers"),
        (TWO + "probability ( a ) {\n table 0.1, 0.8; }", r"line 5: expected P\(a\) to be .* its sum is 0.9"),
        (TWO + "probability ( a ) {\n table -0.1, 1.1; }", r"line 5: expected P\(a\) to be non-negative"),
        (TWO + "probability ( a | c ) {\n (y) 0.1, 0.9; }", r"line 5: expected P\(a \| n\) to be given"),
        (TWO + "probability ( a | c ) {\n (y) 0.1, 0.9;\n (y) 0.1, 0.9; }", "line 7: expected each configuration"),
        (TWO + "probability ( a | c ) {\n (q) 0.1, 0.9; }", r"line 6: expected a state of 'c' \(y, n\), found 'q'"),
        (TWO + "probability ( a | c ) {\n (y, u) 0.1, 0.9; }", "line 6: expected a state for each of the 1 parents"),
        (TWO + "probability ( a ) {\n table 0.1, 0.9 }", "line 6: expected a name, a number or ';'; this is at '}'"),
        (TWO + ROOTS, "text: variable 'c' has no probability block"),
        ('network "n {\n}', "line 1: a quotation mark opens and none closes"),
    ],
)
def test_what_is_no_network_is_refused_with_its_line(text, message):
    with pytest.raises(ReadError, match=message):
        parse(text)


def test_a_cycle():
    conditionals = "".join(f"probability ( {a} | {b} ) {{ default 0.5, 0.5; }}\n" for a, b in ("ac", "ca"))
    root = "probability ( b ) { table 0.5, 0.3, 0.2; }"
    with pytest.raises(ReadError, match="the arcs have a cycle: (a -> c -> a|c -> a -> c); take one of them out"):
        parse(TWO + conditionals + root)


def test_tables_too_large_to_read():
    many = "".join(f"variable v{i} {{ type discrete {{ y, n }}; }}\n" for i in range(40))
    scope = ", ".join(f"v{i}" for i in range(1, 40))
    with pytest.raises(ReadError, match="line 41: expected tables of at most .* numbers in all"):
        parse(many + f"probability ( v0 | {scope} ) {{ default 0.5, 0.5; }}")


def test_files(tmp_path):
    with pytest.raises(ReadError, match="there is no file"):
        read_bif(tmp_path / "none.bif")
    with pytest.raises(ReadError, match="cannot be read"):
        read_bif(tmp_path)
    (tmp_path / "latin.bif").write_bytes(ASIA.replace("asia", "Österreich").encode("latin-1"))
    assert "Österreich" in read_bif(tmp_path / "latin.bif").variables
    (tmp_path / "noise.bif").write_bytes(bytes(range(256)))
    with pytest.raises(ReadError, match=r"noise.bif, line \d"):
        read_bif(tmp_path / "noise.bif")


# ------------------------------------------------------------------------------------------------------- writing

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters='"\n'), max_size=8)


@given(
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    states=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 1000),
)
def test_whatever_is_written_is_read_again(names, states, seed):
    rng = np.random.default_rng(seed)
    network = Network(names[0])
    for i, name in enumerate(names):
        network.variables[name] = tuple(states)
        network.parents[name] = tuple(names[:i])
        table = rng.dirichlet(np.full(len(states), 0.1), [len(states)] * i)
        network.tables[name] = np.moveaxis(table, -1, 0)
    assert same(parse(to_text(network)), network)


def test_a_name_that_cannot_be_written():
    network = parse(ASIA.replace("bronc", "plain"))
    network.variables = {v.replace("plain", 'a "b"'): s for v, s in network.variables.items()}
    with pytest.raises(DataError, match="cannot be written in BIF"):
        to_text(network)


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_published_networks(name, tmp_path):
    text = (FOLDER / f"{name}.bif").read_text()
    network = read_bif(FOLDER / f"{name}.bif")
    free = sum((len(t) - 1) * t[0].size for t in network.tables.values())
    assert (len(network.variables), sum(map(len, network.parents.values())), free) == COUNTS[name]
    write_bif(network, tmp_path / "again.bif")
    assert same(read_bif(tmp_path / "again.bif"), network)
    assert sorted(numbers((tmp_path / "again.bif").read_text())) == sorted(numbers(text))


# ---------------------------------------------------------------------------------------------------- as models


@pytest.fixture
def path(tmp_path):
    (tmp_path / "asia.bif").write_text(ASIA)
    return tmp_path / "asia.bif"


@pytest.fixture
def model(path):
    return pl.load(path)


def test_a_file_is_a_fitted_model(model):
    assert model.n_parameters_ == 18 and model.space_.columns[0].levels == ("yes", "no")
    assert model.parents_["either"] == ["tub", "lung"]
    joint = enumerated(factors_of(parse(ASIA)))
    codes = np.indices(joint.shape).reshape(8, -1)
    rows = pd.DataFrame(np.array(["yes", "no"])[codes.T], columns=list(model.parents_))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(model.log_prob(rows), np.log(joint.ravel()), atol=1e-12)
    drawn = model.sample(100, random_state=0)
    assert list(drawn.columns) == list(model.parents_) and set(drawn.to_numpy().ravel()) == {"yes", "no"}


def test_questions_to_a_file(model):
    joint = enumerated(factors_of(parse(ASIA)))
    given_both = joint[:, :, 0, :, :, :, 0]  # smoke and xray are 'yes'
    lung = given_both.sum((0, 1, 3, 4, 5)) / given_both.sum()
    found = ask.table(model, "lung", {"smoke": "yes", "xray": "yes"})
    np.testing.assert_allclose(found[["yes", "no"]], lung, atol=1e-12)
    likely = ask.impute(model, pd.DataFrame({"smoke": ["yes"], "xray": ["yes"]}), how="likely")
    code = tuple(int(v == "no") for v in likely.drop(columns=["smoke", "xray"]).iloc[0])
    assert given_both[code] == given_both.max()


def test_a_model_as_a_file(model, tmp_path):
    model.save(tmp_path / "again.BIF")
    again, first = read_bif(tmp_path / "again.BIF"), parse(ASIA)
    assert again.variables == first.variables
    for name, table in first.tables.items():
        order = [first.parents[name].index(p) for p in again.parents[name]]
        assert np.array_equal(again.tables[name], table.transpose(0, *(1 + i for i in order)))
    model.save(tmp_path / "m.plausible")
    X = model.sample(50, random_state=0)
    assert np.array_equal(pl.load(tmp_path / "m.plausible").log_prob(X), model.log_prob(X))


def test_a_clone_learns_the_tables_of_the_same_graph(model):
    X = model.sample(20_000, random_state=0)
    learned = clone(model).fit(X)
    assert learned.parents_ == model.parents_
    held_out = model.sample(5000, random_state=1)
    assert abs(learned.score(held_out) - model.score(held_out)) < 0.005


def test_numbers_and_truths_are_levels_as_such(tmp_path):
    text = TWO.replace("y, n", "True, False").replace("u, v, w", "0, 1, -12")
    text += ROOTS + "probability ( c | b ) { default 0.5, 0.5; }"
    (tmp_path / "n.bif").write_text(text)
    model = pl.load(tmp_path / "n.bif")
    X = model.sample(200, random_state=0)
    assert X.dtypes.astype(str).tolist() == ["bool", "int64", "bool"] and set(X["b"]) == {0, 1, -12}
    assert abs(X["a"].mean() - 0.2) < 0.1
    model.save(tmp_path / "again.bif")
    assert read_bif(tmp_path / "again.bif").variables == read_bif(tmp_path / "n.bif").variables


def test_printed_digits_that_miss_a_sum_of_one(tmp_path):
    text = TWO + ROOTS.replace("0.5, 0.3, 0.2", "0.3333, 0.3333, 0.3333") + "probability ( c ) { table 1, 0; }"
    (tmp_path / "n.bif").write_text(text)
    np.testing.assert_allclose(ask.table(pl.load(tmp_path / "n.bif"), "b"), 1 / 3, atol=1e-12)


def test_models_that_are_no_tables(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.normal(size=50), "k": rng.choice(list("ab"), 50)})
    with pytest.raises(DataError, match="and this is a Gaussian; save it under another suffix"):
        pl.Gaussian().fit(X[["x"]]).save(tmp_path / "g.bif")
    for conditionals in ("auto", "table"):
        with pytest.raises(DataError, match="column 'x' is real, was cut into bins"):
            pl.BayesNet(conditionals=conditionals).fit(X).save(tmp_path / "g.bif")
    with pytest.raises(DataError, match="column 'm' is ordinal, was cut into bins"):
        fine = pd.DataFrame({"m": pd.Categorical(rng.integers(0, 99, 500), range(99), ordered=True)})
        pl.BayesNet().fit(fine).save(tmp_path / "g.bif")
    with pytest.raises(DataError, match="levels that are written alike: 1, '1'"):
        mixed = pd.DataFrame({"m": pd.Series(["1", 1] * 20, dtype=object)})
        pl.BayesNet().fit(mixed).save(tmp_path / "g.bif")
    assert not (tmp_path / "g.bif").exists()


def test_on_the_command_line(path, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        return done.exit_code, done.stdout, done.stderr

    code, out, _ = run("sample", path, "-n", 3, "--seed", 0)
    assert code == 0 and out.startswith("asia,tub,smoke,lung,bronc,either,xray,dysp\n") and out.count("\n") == 4
    code, out, _ = run("info", path)
    assert code == 0 and "bayes_net" in out and "in the format .bif" in out and "read from a file" in out
    (tmp_path / "bad.bif").write_text("network n {")
    code, _, err = run("sample", tmp_path / "bad.bif")
    assert code and "bad.bif, line 1: expected '}'" in err
