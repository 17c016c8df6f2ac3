"""Reading for a model that is there already, and samples to files."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from plausible.data import read
from plausible.data.like import read_like
from plausible.data.write import as_text, grid, pixels, write
from plausible.errors import DataError, ReadError, SpaceError
from plausible.space import Series, infer


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": [1.5, 2.5, np.nan, 4.0],
            "code": ["1", "2", "B", "1"],
            "on": [True, False, True, True],
            "day": pd.to_datetime(["2020-01-01", "2020-01-03", "2020-02-01", "2020-03-01"]),
            "n": [1, 2, 40, 100],
        }
    )


def codes(space, X):
    return space.encode(X).double().numpy()


# ------------------------------------------------------------------------------------------------------ read_like


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet"])
def test_a_table_is_read_as_the_model_knows_it(tmp_path, frame, suffix):
    """One row, other columns beside, another order, a level that looks like a number: the codes are the same."""
    path, space = tmp_path / f"one{suffix}", infer(frame)
    one = frame.iloc[:1].assign(extra="z")[["n", "extra", "day", "on", "code", "size"]]
    if suffix == ".parquet":
        one.to_parquet(path)
    elif suffix == ".jsonl":
        one.to_json(path, orient="records", lines=True, date_format="iso")
    elif suffix == ".tsv":
        one.to_csv(path, sep="\t", index=False)
    else:
        one.to_csv(path, index=False)
    found = read_like(path, space)
    np.testing.assert_array_equal(codes(space, found), codes(space, frame.iloc[:1]))


def test_a_file_without_a_header(tmp_path):
    (tmp_path / "new.csv").write_text("1.5,a\n")
    (tmp_path / "old.csv").write_text("0.5,a\n2.5,b\n3.5,b\n")
    space = read(tmp_path / "old.csv").space
    found = read_like(tmp_path / "new.csv", space)
    assert found.to_dict("list") == {"c0": [1.5], "c1": ["a"]}


def test_constant_columns_are_no_matter(tmp_path, frame):
    path = tmp_path / "same.csv"
    frame.iloc[[0, 0, 0]].to_csv(path, index=False)
    assert len(read_like(path, infer(frame))) == 3


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_arrays(tmp_path, ending):
    X = np.random.default_rng(0).normal(size=(5, 3))
    path = tmp_path / f"x{ending}"
    np.save(path, X) if ending == ".npy" else np.savez(path, X=X, other=X[:, 0])
    np.testing.assert_array_equal(read_like(path, infer(X)), X)
    with pytest.raises(SpaceError, match="expected 2 columns, got 3"):
        read_like(path, infer(X[:, :2]))


def test_images(tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    space = infer(X)
    write(X, tmp_path / "folder", space)
    np.testing.assert_array_equal(read_like(tmp_path / "folder", space), X)
    np.save(tmp_path / "flat.npy", X.reshape(3, -1))
    np.testing.assert_array_equal(read_like(tmp_path / "flat.npy", space), X)


def test_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ab\n\nba\n")
    assert read_like(path, infer(["ab", "b"])) == ["ab", "ba"]
    assert read_like(path, infer("abba\n" * 30)) == "ab\n\nba\n"
    with gzip.open(tmp_path / "t.txt.gz", "wt") as file:
        file.write("ab\n")
    assert read_like(tmp_path / "t.txt.gz", infer(["ab", "b"])) == ["ab"]


def test_series(tmp_path):
    """By the names of the channels, latest last, cut into windows of the model's length."""
    dates = pd.date_range("2020-01-01", periods=8).strftime("%Y-%m-%d")
    frame = pd.DataFrame({"date": dates, "a": np.arange(8.0) + 0.5, "b": -np.arange(8.0)})
    frame.iloc[::-1].to_csv(tmp_path / "s.csv", index=False)
    space = Series.of(3, ["b", "a"])
    expected = frame[["b", "a"]].to_numpy()[:6].reshape(2, 3, 2)
    np.testing.assert_array_equal(read_like(tmp_path / "s.csv", space), expected)
    with pytest.raises(DataError, match="shorter than one window of 9"):
        read_like(tmp_path / "s.csv", Series.of(9, ["a"]))


def test_what_is_not_there_is_named(tmp_path, frame):
    space = infer(frame)
    with pytest.raises(ReadError, match="no such file"):
        read_like(tmp_path / "absent.csv", space)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ReadError, match="empty.csv: the file is empty"):
        read_like(tmp_path / "empty.csv", space)
    frame.drop(columns="code").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(SpaceError, match="'code', which the model was fitted on, is missing"):
        read_like(tmp_path / "less.csv", space)
    frame.assign(day="tomorrow").to_csv(tmp_path / "day.csv", index=False)
    with pytest.raises(SpaceError, match="'day' was fitted on dates, got 'tomorrow'"):
        read_like(tmp_path / "day.csv", space)


# ---------------------------------------------------------------------------------------------------------- write


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_come_back(tmp_path, frame, suffix):
    path, space = tmp_path / f"t{suffix}", infer(frame)
    write(frame, path, space)
    np.testing.assert_array_equal(codes(space, read_like(path, space)), codes(space, frame))


def test_series_are_written_a_step_a_line(tmp_path):
    X = np.arange(12.0).reshape(2, 3, 2)
    write(X, tmp_path / "s.csv", Series.of(3, ["a", "b"]))
    back = pd.read_csv(tmp_path / "s.csv")
    assert list(back.columns) == ["window", "step", "a", "b"]
    np.testing.assert_array_equal(back[["a", "b"]].to_numpy().reshape(2, 3, 2), X)


def test_text_is_written_a_string_a_line(tmp_path):
    space = infer(["ab", "b"])
    assert as_text(["ab", "", "b"], space) == "ab\n\nb\n"
    write(["ab", "b"], tmp_path / "t.csv", space)
    assert (tmp_path / "t.csv").read_text() == "text\nab\nb\n"


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.array([[[0, 1], [1, 0]]], np.uint8), [0, 255, 255, 0]),
        (np.array([[[0, 4], [2, 1]]], np.uint8), [0, 255, 128, 64]),
        (np.array([[[0, 200], [7, 9]]], np.uint8), [0, 200, 7, 9]),
        (np.array([[[0, 0.5], [1, 0.2]]]), [0, 128, 255, 51]),
        (np.array([[[-1, 0.0], [1, 0.2]]]), [0, 128, 255, 153]),
    ],
)
def test_pixels(X, expected):
    assert pixels(X, infer(X.repeat(2, 0), "image"))[0].ravel().tolist() == expected


def test_pixels_of_colour_images():
    X = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    space = infer(X)
    np.testing.assert_array_equal(pixels(X, space), np.moveaxis(X, 1, 3))


def test_grid_holds_every_image():
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 32), np.uint8)
    page = grid(images)
    assert page.shape == (2 * 66 + 2, 2 * 66 + 2)
    assert [page[10, 10], page[10, 80], page[80, 10], page[80, 80]] == [0, 1, 2, 255]


def test_forms_that_do_not_fit(tmp_path, frame):
    with pytest.raises(DataError, match="table samples can be written to .csv, .tsv, .parquet, .jsonl; got 't.npz'"):
        write(frame, tmp_path / "t.npz", infer(frame))
    X = np.zeros((2, 5, 6, 6)) + np.arange(6)
    with pytest.raises(DataError, match="5 channels"):
        write(X, tmp_path / "x.png", infer(X))
    with pytest.raises(DataError, match="images cannot be printed"):
        as_text(X, infer(X))
