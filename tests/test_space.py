"""What an example is: codes and back, the guesses, and every refusal in the words that help."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from plausible.errors import DataError, SpaceError
from plausible.space import KINDS, Column, Image, Series, Space, Table, Text, from_json, infer, parameter_counts
from plausible.space.counting import in_figures

# ------------------------------------------------------------------------------------------------------- columns

WORDS = st.text("abcé ☃", min_size=1, max_size=3)
DATES = st.datetimes(pd.Timestamp(1950, 1, 1).to_pydatetime(), pd.Timestamp(2050, 1, 1).to_pydatetime())


def cells(values, missing=True, dtype=None):
    """Columns of at least two different values, as pandas Series."""
    one = st.one_of(st.none(), values) if missing else values
    lists = st.lists(one, min_size=3, max_size=12).filter(lambda v: len({x for x in v if x is not None}) > 1)
    return lists.map(lambda v: pd.Series(v, dtype=dtype))


def categories(ordered: bool):
    return cells(st.sampled_from(["low", "mid", "high"])).map(
        lambda s: s.astype(pd.CategoricalDtype(["low", "mid", "high", "unused"], ordered=ordered))
    )


COLUMNS = {
    "bool": cells(st.booleans(), missing=False),
    "nullable bool": cells(st.booleans(), dtype="boolean"),
    "string": cells(WORDS),
    "object": cells(WORDS, missing=False, dtype=object),
    "category": categories(False),
    "ordered category": categories(True),
    "int8": cells(st.integers(-9, 9), missing=False, dtype="int8"),
    "int with holes": cells(st.integers(-5, 5), dtype="float64"),
    "nullable int": cells(st.integers(0, 900), dtype="Int64"),
    "count": cells(st.integers(0, 10**6), missing=False),
    "large int": cells(st.integers(2**40, 2**50), missing=False),
    "float32": cells(st.floats(-1e6, 1e6, width=32), dtype="float32"),
    "float64": cells(st.floats(-1e100, 1e100)),
    "date": cells(DATES, dtype="datetime64[us]"),
    "date in ms": cells(
        DATES.map(lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000)), dtype="datetime64[ms]"
    ),
    "date in a zone": cells(DATES, missing=False, dtype="datetime64[us]").map(lambda s: s.dt.tz_localize("UTC")),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name):
    @given(COLUMNS[name])
    def check(values):
        frame = pd.DataFrame({"a": values})
        space = infer(frame)
        codes = space.encode(frame)
        assert np.array_equal(np.isnan(codes.double().numpy()[:, 0]), values.isna().to_numpy())
        back = space.decode(codes)
        assert_frame_equal(back, frame, check_exact=True)
        assert from_json(json.loads(json.dumps(space.to_json()))) == space

    check()


@given(st.data())
def test_a_mixed_frame_comes_back_in_the_order_of_the_space(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5, unique=True))
    columns = {name: data.draw(COLUMNS[name]) for name in chosen}
    rows = min(map(len, columns.values()))
    frame = pd.DataFrame({name: s.iloc[:rows] for name, s in columns.items()})
    if any(s.dropna().nunique() < 2 for _, s in frame.items()):
        return
    space = infer(frame)
    assert space.encode(frame).shape == (rows, len(chosen))
    shuffled = frame[data.draw(st.permutations(chosen))]
    assert_frame_equal(space.decode(space.encode(shuffled)), frame)


@pytest.mark.parametrize(
    "values, kind, levels",
    [
        ([True, False], "binary", (False, True)),
        (["b", "a", "b"], "binary", ("a", "b")),
        (["b", "a", "c"], "categorical", ("a", "b", "c")),
        (["ba", "ab", 2, 10], "categorical", (2, 10, "ab", "ba")),
        ([3, 1, 7], "ordinal", (1, 2, 3, 4, 5, 6, 7)),
        ([3.0, np.nan, 7.0], "binary", (3, 7)),
        ([0, 32, 5], "count", ()),
        ([0.5, 1.0, 2.0], "real", ()),
        ([0, 2**60, 5], "real", ()),
        (pd.Categorical(["u", "v"]), "binary", ("u", "v")),
        (pd.Categorical([2, 1, 2], categories=[2, 1, 0], ordered=True), "ordinal", (2, 1, 0)),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), "real", ()),
    ],
)
def test_what_a_column_is_taken_for(values, kind, levels):
    column = infer(pd.DataFrame({"a": values})).columns[0]
    assert (column.kind, column.levels) == (kind, levels)


def test_a_count_has_a_floor_where_none_was_below_zero():
    floors = [c.low for c in infer(pd.DataFrame({"a": [0, 50, 99], "b": [-1, 50, 99], "c": [7, 50, 99]})).columns]
    assert floors == [0.0, None, 0.0]


def test_codes_are_levels_integers_reals_and_seconds():
    frame = pd.DataFrame(
        {
            "word": ["b", "a", "c"],
            "grade": pd.Categorical(["hi", "lo", None], ["lo", "hi"], ordered=True),
            "count": [100, 0, 7],
            "real": [0.25, np.nan, -3.0],
            "date": pd.to_datetime(["1970-01-02", "1970-01-01", None]),
        }
    )
    nan = np.nan
    expected = [[1, 1, 100, 0.25, 86400], [0, 0, 0, nan, 0], [2, nan, 7, -3, nan]]
    assert np.array_equal(infer(frame).encode(frame).numpy(), np.array(expected), equal_nan=True)


@pytest.mark.parametrize("how", [{"a": kind} for kind in KINDS])
def test_the_guess_is_overridden_by_column(how):
    frame = pd.DataFrame({"a": [1, 2, 2], "b": [0.5, 1.5, 2.5]})
    space = infer(frame, how)
    assert [c.kind for c in space.columns] == [how["a"], "real"]
    assert_frame_equal(space.decode(space.encode(frame)), frame)


@pytest.mark.parametrize("ordered, kind", [(True, "categorical"), (False, "ordinal")])
def test_a_category_stays_as_ordered_as_it_was_whatever_its_kind(ordered, kind):
    frame = pd.DataFrame({"a": pd.Categorical(list("xyz"), ordered=ordered)})
    space = infer(frame, {"a": kind})
    assert space.kinds == {kind}
    assert_frame_equal(space.decode(space.encode(frame)), frame)


def test_doubtful_guesses_are_said_with_their_flag():
    frame = pd.DataFrame({"grade": [1, 2, 3], "visits": [0, 50, 99], "size": [0.1, 0.2, 0.3], "name": list("abc")})
    said = " ".join(infer(frame).guesses)
    assert "--kind grade=count" in said and "--kind visits=categorical" in said
    assert "size" not in said and "name" not in said


def test_draws_are_rounded_and_kept_within_the_integer_type():
    frame = pd.DataFrame({"a": np.arange(100, dtype="uint8"), "b": np.arange(100)})
    space = infer(frame, {"b": "real"})
    drawn = space.decode(torch.tensor([[300.0, 2.7], [-4.0, -2.7]]))
    assert drawn["a"].tolist() == [255, 0] and drawn["b"].tolist() == [3, -3]
    assert list(drawn.dtypes) == list(frame.dtypes)


def test_integer_column_names_come_back_as_integers(rng):
    frame = pd.DataFrame(rng.normal(size=(5, 2)))
    space = infer(frame)
    assert_frame_equal(space.decode(space.encode(frame)), frame, check_column_type=False)
    assert list(space.decode(space.encode(frame)).columns) == [0, 1]


# ------------------------------------------------------------------------------------------------ arrays and images


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float32", "float64"])
def test_a_matrix_comes_back_as_it_was(dtype, rng):
    X = rng.integers(0, 2, (6, 3)).astype(dtype)
    X[:2] = [[0, 0, 0], [1, 1, 1]]
    space = infer(X)
    assert (space.type, space.kinds, space.shape) == ("table", {"binary"}, (3,))
    assert space.encode(X).dtype == torch.uint8
    back = space.decode(space.encode(X))
    assert back.dtype == X.dtype and np.array_equal(back, X)
    assert from_json(json.loads(json.dumps(space.to_json()))) == space


def test_small_integers_of_an_array_share_their_levels_and_other_columns_do_not(rng):
    X = np.array([[0, 3], [4, 1], [2, 2]])
    assert [c.levels for c in infer(X).columns] == [tuple(range(5))] * 2
    X = np.array([[0, 0.5], [4, 1.5], [2, np.nan]])
    space = infer(X)
    assert [c.kind for c in space.columns] == ["ordinal", "real"]
    assert np.array_equal(space.decode(space.encode(X)), X, equal_nan=True)


def test_bytes_that_go_beyond_small_levels_are_all_256(rng):
    space = infer(np.array([[7, 200], [40, 90]], dtype=np.uint8))
    assert {c.n_levels for c in space.columns} == {256} and space.kinds == {"ordinal"}


def test_missing_codes_of_an_integer_array_come_back_as_nan():
    space = infer(np.array([[0, 1], [2, 3]]))
    back = space.decode(torch.tensor([[0.0, torch.nan]], dtype=torch.float64))
    assert back.dtype == np.float64 and np.array_equal(back, [[0, np.nan]], equal_nan=True)


@pytest.mark.parametrize("shape", [(9, 5, 6), (9, 3, 5, 6), (9, 5, 6, 3), (9, 1, 5, 6)])
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64", "float32"])
def test_images_come_back_in_their_layout(shape, dtype, rng):
    X = rng.integers(0, 2 if dtype == "bool" else 17, shape).astype(dtype)
    space = infer(X, "image")
    assert space.type == "image" and space.shape[1:] == (5, 6) and space.measure == "counting"
    codes = space.encode(X)
    assert codes.shape == (9, *space.shape) and codes.dtype == torch.uint8
    if shape[-1] == 3:
        assert np.array_equal(codes.numpy(), X.transpose(0, 3, 1, 2))
    back = space.decode(codes)
    assert back.dtype == X.dtype and np.array_equal(back, X)
    assert from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize("top, dtype, n_levels", [(1, "uint8", 2), (16, "float64", 17), (40, "uint8", 256)])
def test_pixels_are_the_levels_they_are(top, dtype, n_levels, rng):
    X = rng.integers(0, top + 1, (9, 5, 5)).astype(dtype)
    X[0, 0, 0] = top
    assert infer(X).pixel.n_levels == n_levels


def test_real_images_and_series_come_back(rng):
    X = rng.normal(size=(4, 8, 8))
    space = infer(X)
    assert (space.type, space.measure) == ("image", "Lebesgue")
    assert np.array_equal(space.decode(space.encode(X)), X)
    X = rng.normal(size=(4, 20, 2))
    X[0, 3, 1] = np.nan
    space = infer(X)
    assert (space.type, space.shape, space.dims, space.measure) == ("series", (20, 2), 40, "Lebesgue")
    assert "space='image'" in space.guesses[0]
    assert np.array_equal(space.decode(space.encode(X)), X, equal_nan=True)
    assert from_json(json.loads(json.dumps(space.to_json()))) == space


# ----------------------------------------------------------------------------------------------------------- text


@given(st.lists(st.text("xyz ", max_size=5), min_size=2, max_size=6).filter(any))
def test_strings_come_back(strings):
    space = infer(strings)
    assert isinstance(space, Text) and space.end and space.length == max(map(len, strings))
    assert space.decode(space.encode(strings)) == strings
    assert from_json(json.loads(json.dumps(space.to_json()))) == space


@given(st.text("abc\n", min_size=2, max_size=300).filter(lambda s: len(set(s)) > 1))
def test_a_long_text_comes_back_in_windows(text):
    space = infer(text)
    windows = space.decode(space.encode(text))
    assert "".join(windows) == text and not space.end
    assert all(len(w) == space.length for w in windows[:-1])


def test_a_string_is_its_characters_an_end_and_nothing():
    space = infer(["ba", "", "aab"])
    nan = torch.nan
    assert space.columns[0].levels == ("a", "b", "") and infer("cabba").columns[0].levels == ("a", "b", "c")
    expected = torch.tensor([[1, 0, 2], [2, nan, nan], [0, 0, 1]])
    assert torch.equal(space.encode(["ba", "", "aab"]).nan_to_num(-1), expected.nan_to_num(-1))
    assert space.observed(space.encode(["ba", "", "aab"])).tolist() == [3, 1, 3]


# ------------------------------------------------------------------------------------------------ spaces in general


def test_the_measure_follows_the_kinds():
    def measure(*kinds):
        return Space(tuple(Column(k, k) for k in kinds), (len(kinds),)).measure

    assert measure("binary", "count", "ordinal", "categorical") == "counting"
    assert measure("real", "real") == "Lebesgue"
    assert measure("real", "count") == "mixed"


def test_observed_counts_the_cells_that_are_there():
    x = torch.tensor([[[1.0, torch.nan], [torch.nan, torch.nan]], [[1.0, 2.0], [3.0, torch.nan]]])
    assert Space((), (2, 2)).observed(x).tolist() == [1, 3]
    assert Space((), (3,)).observed(torch.zeros(2, 3, dtype=torch.uint8)).tolist() == [3, 3]


def test_describe_says_it_in_a_line(rng):
    frame = pd.DataFrame({"a": [0.1, 0.2, 0.3], "b": list("xyz"), "c": [0.5, 1.5, 2.5]})
    assert infer(frame).describe() == "table of 3 columns (1 categorical, 2 real)"
    assert infer(rng.integers(0, 9, (3, 8, 8))).describe() == "grey images of 8x8 pixels, 9 levels"
    assert infer(["ab", "c"]).describe() == "text, strings of at most 2 characters from an alphabet of 3"
    assert infer(rng.normal(size=(3, 20, 2))).describe() == "series, windows of 20 steps of 2 channel(s)"


def test_a_space_given_is_taken_as_it_is():
    space = Table((Column("a", "real"),), (1,))
    assert infer(pd.DataFrame({"a": [1, 1]}), space) is space


# ------------------------------------------------------------------------------------------------------- bad input

ONES = np.ones((4, 2))
GOOD = pd.DataFrame({"a": [1.5, 2.5], "b": ["u", "v"]})
MANY = pd.DataFrame({"id": [f"user {i}" for i in range(300_000)]})

REFUSED_AT_FIT = {
    "no rows": (pd.DataFrame({"a": []}), None, "0 sample(s)", "empty"),
    "no columns": (pd.DataFrame(index=[0, 1]), None, "0 feature(s)"),
    "no examples": (np.empty((0, 8, 8)), None, "no examples"),
    "one row": (GOOD.head(1), None, "n_samples=1", "minimum of 2"),
    "one image": (np.eye(8)[None], None, "n_samples=1"),
    "one string": (["abc"], None, "n_samples=1"),
    "constant": (GOOD.assign(a=7.0), None, "'a' is constant", "7.0", "--drop a"),
    "constant words": (GOOD.assign(b="u"), None, "'b' is constant", "'u'"),
    "constant array": (ONES, None, "'x0' is constant"),
    "constant images": (np.zeros((3, 8, 8), int), None, "every pixel of every image is 0"),
    "constant text": ("aaaa", None, "every character of the text is 'a'"),
    "empty text": ("", None, "0 characters"),
    "empty strings": (["", ""], None, "every string is empty"),
    "long strings": (["x" * 2000, "y"], None, "2,000 characters", "one long string"),
    "all missing": (GOOD.assign(a=np.nan), None, "'a' is empty", "drop it"),
    "all missing words": (GOOD.assign(b=None), None, "'b' is empty"),
    "identifiers": (MANY, None, "'id'", "300,000 distinct values", "--drop id", "group"),
    "infinity": (GOOD.assign(a=[1.5, np.inf]), None, "'a' holds infinity", "NaN for missing"),
    "infinity in an array": (np.array([[1.0, 2], [-np.inf, 3]]), None, "'x0' holds infinity"),
    "nan in images": (np.where(np.eye(8), np.nan, 1.0)[None].repeat(3, 0), "image", "hold NaN or infinity"),
    "complex": (ONES * 1j, None, "Complex data not supported"),
    "complex column": (pd.DataFrame({"a": [1j, 2.0]}), None, "Complex data not supported"),
    "objects": (pd.DataFrame({"a": pd.cut([1, 2, 3, 4], 2)}), None, "'a' holds Interval objects", "strings"),
    "twice the same name": (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), None, "'a' occurs more than once"),
    "one dimension": (np.arange(4), None, "Expected 2D array"),
    "five dimensions": (np.ones((2,) * 5), None, "dim 5"),
    "unknown column": (GOOD, {"c": "real"}, "'c'", "'a', 'b'"),
    "unknown kind": (GOOD, {"a": "reel"}, "'a'", "binary, categorical, ordinal, count, real", "'reel'"),
    "unknown type": (GOOD, "sound", "'table', 'image', 'series', 'text'", "'sound'"),
    "words as reals": (GOOD, {"b": "real"}, "'b' holds values such as 'u'", "'real'"),
    "words as counts": (GOOD, {"b": "count"}, "'b' holds values such as 'u'", "'count'"),
    "reals as counts": (GOOD, {"a": "count"}, "'a' cannot be a count", "1.5", "not an integer"),
    "three binary": (pd.DataFrame({"a": [1, 2, 3]}), {"a": "binary"}, "'a' has 3 distinct values", "binary"),
    "bool as real": (pd.DataFrame({"a": [True, False]}), {"a": "real"}, "such as False", "'real'"),
    "dates as counts": (pd.DataFrame({"a": pd.to_datetime(["2020", "2021"])}), {"a": "count"}, "'a' holds dates"),
    "a wide ordinal": (pd.DataFrame({"a": [0, 5000]}), {"a": "ordinal"}, "'a' has 5,001 distinct values"),
    "kinds of images": (np.eye(8)[None].repeat(3, 0), {"pixel": "real"}, "'pixel'", "images and series have none"),
    "kinds of text": (["a", "b"], {"x": "real"}, "'x'", "text have none"),
    "a matrix as images": (ONES, "image", "3 or 4 dimensions, got 2"),
    "a frame as images": (GOOD, "image", "3 or 4 dimensions, got a DataFrame"),
    "a matrix as text": (ONES, "text", "string or a list of strings", "ndarray"),
    "images as a table": (np.ones((2, 4, 4)), "table", "2 dimensions, got 3"),
    "colour images as series": (np.ones((2, 3, 4, 4)), "series", "(n, T, C)", "(2, 3, 4, 4)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_AT_FIT)
def test_data_nothing_can_be_learned_from_are_refused(name):
    X, how, *words = REFUSED_AT_FIT[name]
    with pytest.raises(ValueError) as refusal:
        infer(X, how)
    for word in words:
        assert word in str(refusal.value)


IMAGES = np.arange(2 * 8 * 8).reshape(2, 8, 8) % 17
COUNTS = pd.DataFrame({"n": [0, 50, 99]})

REFUSED_AFTERWARDS = {
    "unseen level": (GOOD, GOOD.assign(b=["u", "w"]), "'b'", "'w'", "not seen when fitting", "'u', 'v'"),
    "absent column": (GOOD, GOOD[["a"]], "'b' is missing", "got 'a'"),
    "infinity": (GOOD, GOOD.assign(a=np.inf), "'a' holds infinity"),
    "words": (GOOD, GOOD.assign(a=["x", "y"]), "'a' was fitted on numbers"),
    "infinite level": (pd.DataFrame({"a": [1, 2, 3]}), pd.DataFrame({"a": [np.inf]}), "'a' holds infinity"),
    "unseen number": (pd.DataFrame({"a": [1, 2, 3]}), pd.DataFrame({"a": [9]}), "'a' holds 9", "1, 2, 3"),
    "fraction": (COUNTS, pd.DataFrame({"n": [0.5]}), "'n'", "integers not below 0", "0.5", "'real'"),
    "negative count": (COUNTS, pd.DataFrame({"n": [-1]}), "not below 0", "-1"),
    "features": (np.eye(3), np.eye(4), "4 features", "3 features"),
    "image size": (IMAGES, np.zeros((2, 8, 9), int), "(n, 8, 8)", "(2, 8, 9)"),
    "image channels": (IMAGES, np.zeros((2, 3, 8, 8), int), "(n, 8, 8)"),
    "bright pixels": (IMAGES, IMAGES + 1, "0 to 16", "1 to 17"),
    "fractional pixels": (IMAGES, IMAGES / 2, "integers 0 to 16", "fractions"),
    "nan pixels": (IMAGES, np.where(IMAGES == 0, np.nan, IMAGES), "0 to 16"),
    "series length": (np.random.default_rng(0).normal(size=(3, 9, 1)), np.zeros((3, 8, 1)), "(n, 9, 1)", "(3, 8, 1)"),
    "long string": (["ab", "c"], ["abc"], "3 characters", "at most 2", "'abc'"),
    "unseen character": (["ab", "c"], ["a", "d"], "string 1", "'d'", "not seen when fitting"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_AFTERWARDS)
def test_data_unlike_those_of_the_fit_are_refused(name):
    fitted, X, *words = REFUSED_AFTERWARDS[name]
    with pytest.raises((SpaceError, DataError)) as refusal:
        infer(fitted).encode(X)
    for word in words:
        assert word in str(refusal.value)


def test_a_plain_space_holds_codes_already():
    with pytest.raises(TypeError, match="codes already"):
        Space((Column("a", "real"),), (1,)).encode(ONES)
    units = {Image.unit, Series.unit, Text.of("ab", 2, end=True).unit, Table.unit}
    assert units == {"pixel value", "value", "character", "column"}


def test_parameters_of_tables():
    """The counts of the decks: 28 x 28 binary pixels, and a table small enough to count by hand."""
    pixels = infer(np.random.default_rng(0).integers(0, 2, (5, 28, 28)).astype(np.uint8))
    assert parameter_counts(pixels) == {"full table": 2**784 - 1, "chain": 1567, "independent": 784}
    rows = pd.DataFrame({"a": ["x", "y", "z"], "b": [True, False, True], "c": ["p", "q", "q"]})
    assert parameter_counts(infer(rows)) == {"full table": 11, "chain": 2 + 3 + 2, "independent": 4}
    assert parameter_counts(infer(rows.assign(d=[0.1, 0.2, 0.5]))) is None
    assert in_figures(11) == "11" and in_figures(2**784 - 1) == "about 10^236"


def test_an_unseen_integer_level_says_that_counts_have_none():
    """Levels were a guess for such a column; for words they were not, and nothing else is offered."""
    space = infer(pd.DataFrame({"rings": [3, 4, 5, 6] * 20, "sex": ["F", "I", "M", "F"] * 20}), {"rings": "ordinal"})
    rings, sex = space.columns
    with pytest.raises(SpaceError, match=r"space=\{'rings': 'count'\}"):
        rings.encode(pd.Series([3, 2]))
    with pytest.raises(SpaceError, match="fit on data that hold it$"):
        sex.encode(pd.Series(["F", "Q"]))


def test_copies_of_what_has_columns_share_them():
    space = Space((Column("a", "real"), Column("b", "binary", (0, 1))), (2,))
    assert copy.deepcopy(space) == space
    assert all(a is b for a, b in zip(copy.deepcopy(space).columns, space.columns, strict=True))
