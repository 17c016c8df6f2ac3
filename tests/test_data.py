"""Reading, splitting, streaming; toy and bundled data against what is known of them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

import plausible.data as data_module
from plausible.data import Data, Stream, bundled, read, split, take, toy, windows
from plausible.data.split import row_keys
from plausible.errors import DataError, ReadError
from plausible.space import Column, Table, infer


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(170, 10, 200).round(2),
            "visits": rng.integers(0, 90, 200),
            "smoker": rng.choice(["no", "yes"], 200),
            "colour": rng.choice(["red", "green", "blue"], 200),
        }
    )


def save_images(folder, arrays, names=None):
    folder.mkdir(exist_ok=True)
    for i, array in enumerate(arrays):
        Picture.fromarray(array).save(folder / (names[i] if names else f"{i:03d}.png"))
    return folder


# -------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "jsonl", "json"])
def test_tables_come_back_as_they_were_written(tmp_path, frame, kind):
    path = tmp_path / f"people.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind.startswith("json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    data = read(path)
    pd.testing.assert_frame_equal(data.X, frame)
    assert [c.kind for c in data.space.columns] == ["real", "count", "binary", "categorical"]
    assert (len(data), data.name, data.order, len(data.fingerprint)) == (200, path.name, None, 16)
    assert data.space == infer(frame)
    assert any("--kind visits=categorical" in note for note in data.notes)


@pytest.mark.parametrize("X", [np.arange(12.0).reshape(4, 3) / 7, np.arange(128, dtype=np.uint8).reshape(2, 8, 8)])
def test_arrays_come_back_as_they_were_written(tmp_path, X):
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", only=X)
    for name in ("a.npy", "a.npz"):
        data = read(tmp_path / name)
        assert data.X.dtype == X.dtype and np.array_equal(data.X, X) and data.space == infer(X)


def test_npz_with_several_arrays(tmp_path):
    path = tmp_path / "several.npz"
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    np.savez(path, images=images, labels=np.arange(3), X=np.eye(3))
    data = read(path)
    assert np.array_equal(data.X, np.eye(3)) and "--key" in data.notes[0]
    assert read(path, key="images").X.shape == (3, 4, 4)
    with pytest.raises(ReadError, match="several.npz: there is no array 'y'; the archive holds images, labels, X"):
        read(path, key="y")
    np.savez(path, a=np.eye(2), b=np.eye(2))
    with pytest.raises(ReadError, match=r"several arrays \(a, b\); say which: --key a"):
        read(path)


def test_arrays_read_another_way(tmp_path):
    path = tmp_path / "a.npy"
    X = np.random.default_rng(0).normal(size=(40, 16))
    np.save(path, X)
    assert read(path, how="image").X.shape == (40, 4, 4)
    series = read(path, how="series", length=10)
    assert series.X.shape == (4, 10, 16) and series.order == "time" and np.array_equal(series.X.reshape(40, 16), X)
    assert read(path, drop="x3").X.shape == (40, 15)
    assert read(path, kinds={"x0": "real"}).space.dims == 16
    np.save(path, X.astype(">f4").reshape(40, 4, 4))
    assert read(path, how="table").X.shape == (40, 16) and read(path).X.dtype.isnative
    np.save(path, np.array(["ada", "bob", "cyd"]))
    assert read(path).X == ["ada", "bob", "cyd"]


@pytest.mark.parametrize(("mode", "shape"), [("L", (6, 5)), ("RGB", (6, 5, 3)), ("RGBA", (6, 5, 4))])
def test_a_folder_of_images(tmp_path, mode, shape):
    arrays = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    folder = save_images(tmp_path / "pictures", arrays[:2])
    save_images(folder / "deeper", arrays[2:])
    (folder / ".hidden.png").write_bytes(b"not an image")
    data = read(folder)
    assert np.array_equal(data.X, arrays) and data.X.dtype == np.uint8 and data.space.type == "image"
    assert data.fingerprint == read(folder).fingerprint


def test_bits_and_palettes(tmp_path):
    bits = np.random.default_rng(0).random((3, 4, 4)) < 0.5
    assert np.array_equal(read(save_images(tmp_path / "bits", bits)).X, bits)
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    (tmp_path / "palette").mkdir()
    for i, colour in enumerate(colours):
        Picture.fromarray(colour).quantize(256).save(tmp_path / "palette" / f"{i}.gif")
    assert read(tmp_path / "palette").X.shape == (2, 4, 4, 3)


def test_text_and_lines(tmp_path):
    names = [f"name{chr(97 + i % 26)}{i}" for i in range(40)]
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names) + "\n\n", encoding="utf-8")
    data = read(path)
    assert data.X == names and data.order is None and "--as text" in data.notes[0]
    assert read(path, how="text").X == "\n".join(names) + "\n\n"
    prose = "It was a dark and stormy night;\nthe rain fell in torrents,\n\nexcept at occasional intervals\n" * 20
    path.write_text(prose, encoding="utf-8")
    data = read(path)
    assert data.X == prose and data.order == "time" and "--as lines" in data.notes[0]
    assert len(data) == -(-len(prose) // 64) and len(read(path, length=32)) == -(-len(prose) // 32)
    assert len(read(path, how="lines").X) == 60
    path.write_bytes(b"\xef\xbb\xbf" + prose.encode())
    assert read(path).X == prose
    path = tmp_path / "alice"
    path.write_text(prose)
    assert read(path).X == prose
    (tmp_path / "code.py").write_text("x = 1\n" * 30)
    assert isinstance(read(tmp_path / "code.py").X, str)


# ------------------------------------------------------------------------------------------------ dialects of CSV


def written(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n1.5,x,2\n2.5,y,3\n3.5,x,9\n",
        "a;b;c\n1.5;x;2\n2.5;y;3\n3.5;x;9\n",
        "a;b;c\n1,5;x;2\n2,5;y;3\n3,5;x;9\n",
        "a\tb\tc\n1.5\tx\t2\n2.5\ty\t3\n3.5\tx\t9\n",
        "a|b|c\n1.5|x|2\n2.5|y|3\n3.5|x|9\n",
        "a, b , c\r\n1.5, x ,2 \r\n2.5, y, 3\r\n3.5,x , 9\r\n",
        "'a','b','c'\n1.5,'x',2\n2.5,'y',3\n3.5,'x',9\n",
        '"a","b","c"\n1.5,"x","2"\n2.5,"y","3"\n3.5,"x","9"\n',
        "# where it is from\n\na,b,c\n1.5,x,2\n\n2.5,y,3\n3.5,x,9",
        ",a,b,c\n0,1.5,x,2\n1,2.5,y,3\n2,3.5,x,9\n",
    ],
)
def test_dialects(tmp_path, text):
    X = read(written(tmp_path, text)).X
    pd.testing.assert_frame_equal(X, pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": ["x", "y", "x"], "c": [2, 3, 9]}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2.5,x\n3,4.5,y\n9,1.5,x\n", ["c0", "c1", "c2"]),
        ("x,y\ny,x\nx,x\n", ["c0", "c1"]),
        ("?,2\n3,4\n5,7\n", ["c0", "c1"]),
        ("sex,colour\nm,red\nf,blue\nm,blue\n", ["sex", "colour"]),
        ("0,1,2\n5,1,7\n6,2,9\n", ["0", "1", "2"]),
        ("year,2019,2020\n5,1,7\n6,2,9\n", ["year", "2019", "2020"]),
    ],
)
def test_header_guess(tmp_path, text, names):
    data = read(written(tmp_path, text))
    assert list(data.X.columns) == names
    assert any("--header" in n for n in data.notes) == (names[0] == "c0")


def test_header_override(tmp_path):
    path = written(tmp_path, "1,2\n3,4\n5,8\n")
    assert list(read(path, header=True).X.columns) == ["1", "2"]
    path = written(tmp_path, "a,b\n3,4\n5,8\n")
    assert len(read(path, header=False, kinds={"c0": "categorical", "c1": "categorical"}).X) == 3


def test_missing_cells_and_overrides(tmp_path):
    path = written(tmp_path, "a,b,c,d\n1,?,x,1.5\n2, NA,?,2.5\n,3,? ,?\n4,5,y,2.5\n")
    data = read(path)
    expected = pd.DataFrame(
        {"a": [1, 2, None, 4], "b": [None, None, 3, 5], "c": ["x", None, None, "y"], "d": [1.5, 2.5, None, 2.5]}
    )
    pd.testing.assert_frame_equal(data.X, expected)
    data = read(path, kinds={"a": "real"}, drop=("c", "b"))
    assert [(c.name, c.kind) for c in data.space.columns] == [("a", "real"), ("d", "real")]
    with pytest.raises(DataError, match="t.csv: there is no column 'z' to drop; the columns are a, b, c, d"):
        read(path, drop="z")
    with pytest.raises(DataError, match="t.csv: the kind of 'a' must be one of binary"):
        read(path, kinds={"a": "wavelet"})
    with pytest.raises(DataError, match="t.csv: space names a column 'z'"):
        read(path, kinds={"z": "real"})


def test_dates_among_other_columns(tmp_path):
    path = written(tmp_path, "who,when,n\na,2020-01-05,1.5\nb,2020-01-03,2.5\na,2020-01-04,9.5\n")
    data = read(path)
    assert str(data.X["when"].dtype).startswith("datetime64") and data.order is None
    assert any("--kind when=categorical" in n for n in data.notes)
    assert read(path, kinds={"when": "categorical"}).space.columns[1].n_levels == 3


def test_a_table_in_a_text_file(tmp_path):
    text = "\n".join(f"{i * 0.5} {i * i} {i % 3}" for i in range(30))
    data = read(written(tmp_path, text, "numbers.txt"))
    assert data.X.shape == (30, 3) and "--as text" in data.notes[0]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_ends_of_lines(tmp_path, newline):
    text = 'name,n\n"two\nlines",1.5\n"x\u2028y",2.5\nb,0.5\n'.replace("\n", newline)
    for X in (read(written(tmp_path, text)).X, Stream(written(tmp_path, text)).head(9)):
        assert X["name"].tolist() == [f"two{newline}lines", "x\u2028y", "b"] and X["n"].tolist() == [1.5, 2.5, 0.5]


def test_a_doubtful_header_is_told(tmp_path):
    path = written(tmp_path, "ada,paris\nbob,rome\ncyd,oslo\n")
    assert "--no-header" in read(path).notes[0] and len(read(path, header=False)) == 3


def test_identifiers_are_pointed_out(tmp_path):
    text = "id,name,x\n" + "".join(f"{i},n{i},{i * i % 7 + 0.5}\n" for i in range(30))
    notes = " ".join(read(written(tmp_path, text)).notes)
    assert "--drop id" in notes and "--drop name" in notes


# --------------------------------------------------------------------------------------------------------- series


def test_a_date_column_makes_a_series(tmp_path):
    days = pd.date_range("2020-01-01", periods=200)
    frame = pd.DataFrame({"day": days.strftime("%Y-%m-%d"), "a": np.arange(200) * 0.5, "b": np.arange(200) % 7})
    path = written(tmp_path, frame.to_csv(index=False))
    data = read(path)
    assert data.X.shape == (8, 24, 2) and data.order == "time" and data.space.shape == (24, 2)
    assert np.array_equal(data.X[1, 0], [12.0, 24 % 7]) and data.space.columns[1].name == "b[0]"
    assert any("--as table" in n and "the last 8 left over" in n for n in data.notes)
    assert read(path, length=50).X.shape == (4, 50, 2)
    assert read(path, how="table").X.shape == (200, 3)
    turned = read(written(tmp_path, frame[::-1].to_csv(index=False), "turned.csv"))
    assert np.array_equal(turned.X, data.X) and "turned round" in turned.notes[0]


def test_windows():
    series = np.arange(10.0)
    assert windows(series, 4)[:, :, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(series, 4, 3)[:, :, 0].tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(np.zeros((10, 2)), 5).shape == (2, 5, 2)
    with pytest.raises(DataError, match="cannot cut windows of 11 steps"):
        windows(series, 11)


# --------------------------------------------------------------------------------------------------------- errors


NEARLY = "a,b\n" + "".join(f"{i % 7},{i}\n" for i in range(2000)) + "3,oops\n"
LONG = "a,b\n" + "\n".join(f"{i},{i % 7}" for i in range(50))


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("e.csv", b"", "e.csv: the file is empty"),
        ("e.csv", b" \n\n", "e.csv: the file is empty"),
        ("h.csv", b"age,sex\n", "h.csv: the file holds a header line but no rows; at least 2"),
        ("r.csv", b"age,sex\n3,m\n", "r.csv: the file holds one row; at least 2"),
        ("r.csv", b"a,b\n1,2\n3,4,5\n6,7\n", "r.csv: line 3 has 3 cells where the first row has 2"),
        ("r.csv", b"a,b\n\n1,2\n3\n6,7\n", "r.csv: line 4 has 1 cells where the first row has 2"),
        ("r.csv", b"a,b,c\n1,2\n3,4\n6,7\n", "r.csv: the header names 3 columns, but the rows have 2 cells"),
        ("r.csv", LONG.encode() + b'\n"3,4\n5,6\n', "r.csv: this cannot be read as a table .*EOF inside string"),
        ("c.csv", b"a,b\n1.5,2\n1.5,3\n1.5,9\n", r"c.csv: column 'a' is constant: .*\(--drop a\)"),
        ("c.csv", b"a,b\n,2\n,3\n,9\n", "c.csv: column 'a' is empty: every cell is missing; drop it"),
        ("c.csv", b"a,b\nTrue,2\nTrue,3\n", "c.csv: column 'a' is constant"),
        ("c.csv", b"a,a\n1,2\n5,3\n", "c.csv: the column name 'a' occurs more than once"),
        ("c.csv", b"a,b\n1,2\ninf,3\n", "c.csv: column 'a' holds infinity"),
        ("l.csv", b"a,b\ncaf\xe9,2\nx,3\n", r"l.csv: byte 7 \(0xe9\) is not UTF-8"),
        ("l.txt", b"caf\xe9", r"l.txt: byte 3 \(0xe9\) is not UTF-8; convert the file"),
        ("g.csv.gz", gzip.compress(b"a,b\n1,2\n" * 50, mtime=0)[:-9], "g.csv.gz: the file cannot be decompressed"),
        ("j.jsonl", b'{"a": 1}\n{"a": \n', "j.jsonl: line 2 is not JSON"),
        ("j.jsonl", b'{"a": [1]}\n{"a": [2]}\n', r"j.jsonl: column 'a' holds a list; drop it \(--drop a\)"),
        ("j.jsonl", b"1\n2\n", "j.jsonl: expected a JSON object on each line"),
        ("p.parquet", b"PAR1 and so on", "p.parquet: this is no Parquet file, or it is cut short"),
        ("a.npy", b"\x93NUMPY and so on", "a.npy: this is no .npy file, or it is cut short"),
        ("a.npz", b"PK and so on", "a.npz: "),
        ("u.csv", "a,b\n1,2\n".encode("utf-16"), r"u.csv: byte 0 \(0xff\) is not UTF-8"),
        ("n.csv", NEARLY.encode(), r"n.csv: column 'b' holds numbers, but also 'oops' \(row 2001; 1 such cells\)"),
        ("f.csv", b"a,b\n" + b"z" * 200_000 + b",2\n1,2\n", "f.csv: this cannot be read as a table .*field larger"),
        ("b.bin", b"\0\1\2\3", "b.bin: this is a binary file of a kind that is not known; expected CSV"),
        ("b.zip", b"PK\0\0", "b.zip: this is an archive; unpack it"),
        ("b.png", b"\0\1\2\3", "b.png: this is one image; give the folder"),
    ],
)
def test_bad_files(tmp_path, name, contents, words):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=words):
        read(tmp_path / name)


def test_missing_path():
    with pytest.raises(ReadError, match="nowhere.csv: no such file or folder .*digits"):
        read("nowhere.csv")
    with pytest.raises(DataError, match="how must be one of table, image"):
        read("nowhere.csv", how="graph")


def test_many_distinct_strings_are_named_with_the_file(tmp_path):
    path = tmp_path / "big.csv"
    pd.DataFrame({"who": [f"u{i}" for i in range(300_000)], "x": np.arange(300_000) % 7}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"big.csv: column 'who' has 300,000 distinct values.*--drop who"):
        read(path)
    assert read(path, drop="who").space.names == ["x"]


def test_pickled_npz_is_refused(tmp_path):
    for save, name in ((np.save, "o.npy"), (np.savez, "o.npz")):
        save(tmp_path / name, np.array([{}, None], dtype=object), allow_pickle=True)
        with pytest.raises(ReadError, match=f"{name}: the array holds Python objects, .* save numbers"):
            read(tmp_path / name)


def test_bad_folders(tmp_path):
    with pytest.raises(ReadError, match="the folder holds no images"):
        read(tmp_path)
    arrays = [np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8), np.zeros((4, 5), np.uint8)]
    folder = save_images(tmp_path / "sizes", arrays)
    with pytest.raises(ReadError, match="sizes: the images differ: 000.png is 4x4 grey, 002.png is 5x4 grey"):
        read(folder)
    arrays = [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)]
    with pytest.raises(ReadError, match="000.png is 4x4 grey, 001.png is 4x4 colour"):
        read(save_images(tmp_path / "modes", arrays))
    folder = save_images(tmp_path / "broken", np.arange(32, dtype=np.uint8).reshape(2, 4, 4))
    (folder / "b.png").write_bytes((folder / "000.png").read_bytes()[:40])
    with pytest.raises(ReadError, match="broken: the image b.png cannot be read"):
        read(folder)
    (folder / "b.png").write_bytes(b"hello")
    with pytest.raises(ReadError, match="the image b.png cannot be read .*not an image"):
        read(folder)
    with pytest.raises(DataError, match="a folder is read as images or as sounds; it cannot be read as table"):
        read(folder, how="table")


def test_bad_series(tmp_path):
    path = written(tmp_path, "day,a\n2020-01-01,1.5\n2020-01-02,2.5\n2020-01-03,0.5\n")
    with pytest.raises(DataError, match="t.csv: a series of 3 steps holds no two windows of 2; give a shorter"):
        read(path)
    path = written(tmp_path, "a,b\n1.5,x\n2.5,y\n0.5,x\n1.0,y\n")
    with pytest.raises(DataError, match=r"column 'b' does not hold numbers, as a series must; drop it \(--drop b\)"):
        read(path, how="series")
    assert read(path, how="series", drop="b").X.shape == (2, 2, 1)


# ---------------------------------------------------------------------------------------------------------- split


def rows(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = rng.choice(["a", "b", None], n)
    return pd.DataFrame({"x": rng.normal(size=n), "n": rng.integers(0, 9, n), "w": pd.Series(words, dtype="str")})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(150, 300), more=st.integers(1, 200), fraction=st.floats(0.1, 0.5))
def test_adding_rows_moves_none(seed, n, more, fraction):
    old = rows(n, seed)
    new = rows(more, seed + 1).assign(n=0.5, w="A new level")  # integers become reals; the codes of the levels shift
    _, test = split(old, test_fraction=fraction)
    grown = pd.concat([new, old], ignore_index=True)
    _, grown_test = split(grown, test_fraction=fraction)
    assert set(grown_test[grown_test >= more] - more) == set(test)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["frame", "array", "images", "strings"]))
def test_duplicates_fall_on_one_side(seed, kind):
    rng = np.random.default_rng(seed)
    X = {
        "frame": rows(100, seed),
        "array": rng.normal(size=(100, 3)),
        "images": rng.integers(0, 256, (100, 4, 4), dtype=np.uint8),
        "strings": [f"s{i}" for i in range(100)],
    }[kind]
    index = rng.permutation(np.r_[np.arange(100), rng.integers(0, 100, 60)])
    train, test = split(take(X, index))
    assert not set(index[train]) & set(index[test])
    assert np.array_equal(np.sort(np.r_[train, test]), np.arange(160)) and min(len(train), len(test)) > 0


def test_where_duplicates_are_the_rule_both_sides_follow_one_distribution():
    X = toy.binary_chain(20_000, length=3, random_state=0)
    train, test = split(X)
    assert len(test) == pytest.approx(4000, abs=300)
    for states in np.unique(X, axis=0):
        share = [(X[i] == states).all(1).mean() for i in (train, test)]
        assert share[0] == pytest.approx(share[1], abs=0.03)


def test_the_share_and_the_seed():
    X = np.random.default_rng(0).normal(size=(20_000, 2))
    tests = [set(split(X, seed=seed, test_fraction=0.3)[1]) for seed in (0, 1)]
    assert all(len(t) == pytest.approx(6000, abs=250) for t in tests)
    assert len(tests[0] & tests[1]) == pytest.approx(1800, abs=200)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_small_data_leave_no_side_empty(n):
    for seed in range(20):
        train, test = split(np.random.default_rng(seed).normal(size=(n, 2)), seed=seed)
        assert len(train) and len(test) and len(train) + len(test) == n


def test_impossible_splits():
    with pytest.raises(DataError, match=r"cannot split 1 example\(s\) in two"):
        split(np.zeros((1, 2)))
    with pytest.raises(DataError, match="all 50 examples are equal"):
        split(np.ones((50, 2)))
    with pytest.raises(DataError, match="test_fraction must lie between 0 and 1, got 1.5"):
        split(np.ones((50, 2)), test_fraction=1.5)
    with pytest.raises(DataError, match="order must be"):
        split(np.ones((50, 2)), order="size")
    with pytest.raises(DataError, match="cannot split 1 example"):
        split("a")


def test_series_and_long_texts_are_split_by_time():
    X = np.random.default_rng(0).normal(size=(50, 6, 2))
    for data in (X, Data.of(X)):
        train, test = split(data)
        assert train.tolist() == list(range(40)) and test.tolist() == list(range(40, 50))
    text = "to be or not to be " * 100
    train, test = split(text)
    assert take(text, train) + take(text, test) == text and len(train) % 64 == 0
    assert len(test) == pytest.approx(380, abs=64)
    assert [len(i) for i in split("abcd")] == [3, 1]
    assert len(split(X, order="hash")[1]) != 0 and split(rows(10, 0), order="time")[1].tolist() == [8, 9]


def test_take():
    frame = rows(5, 0)
    assert take(frame, [3, 1]).index.tolist() == [3, 1]
    assert take(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert take(np.arange(5), [1]).tolist() == [1]
    with pytest.raises(DataError, match="stretches"):
        take("abcdef", [0, 2])


def test_row_keys_see_values_and_not_types():
    a = pd.DataFrame({"x": [1, 0, 2], "w": ["u", "v", None]})
    b = pd.DataFrame({"x": [1.0, -0.0, 2.0], "w": pd.Categorical(["u", "v", None], ["v", "u"])})
    assert row_keys(a).tolist() == row_keys(b).tolist()
    assert row_keys(a[["x"]]).tolist() == row_keys(np.array([[1], [0], [2]])).tolist()
    assert len(set(row_keys(np.array([[1, 2], [2, 1], [1, 1], [np.nan, 1]])).tolist())) == 4


def test_the_split_is_the_same_in_another_process():
    code = (
        "import numpy as np; from plausible.data import split, digits, diabetes;"
        "print([int(split(X)[1].sum()) for X in (digits(), diabetes(), ['a', 'b', 'c', 'd', 'e'])])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    here = [int(split(X)[1].sum()) for X in (data_module.digits(), data_module.diabetes(), list("abcde"))]
    assert json.loads(out.stdout) == here


def _environment():
    return {**os.environ, "PYTHONPATH": str(Path(data_module.__file__).parents[2]), "PYTHONHASHSEED": "7"}


# --------------------------------------------------------------------------------------------------------- stream


@pytest.fixture
def awkward(tmp_path) -> pd.DataFrame:
    """A table in which every column would get another dtype from its first rows than from all."""
    n = 300
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "real late": np.r_[np.arange(200), rng.normal(size=100)],
            "missing late": pd.Series(np.arange(n) % 50).where(np.arange(n) != 250),
            "word late": [str(i % 40) for i in range(n - 1)] + ["many"],
            "level late": ["a"] * 250 + ["b", "c"] * 25,
            "flag": rng.random(n) < 0.5,
            "flag or missing": np.where(np.arange(n) == 290, None, rng.random(n) < 0.5),
            "day": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "empty first": np.r_[np.full(100, np.nan), rng.normal(size=200)],
            "count": rng.integers(0, 5000, n),
        }
    )


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("chunk", [37, 65536])
def test_a_stream_yields_what_read_gives(tmp_path, awkward, kind, chunk):
    path = tmp_path / f"t.{kind}"
    awkward.to_parquet(path, row_group_size=100) if kind == "parquet" else awkward.to_csv(path, index=False)
    data, stream = read(path), Stream(path, chunk)
    for _ in range(2):  # it may be walked through again
        parts = list(stream)
        assert len(parts) == -(-300 // chunk)
        pd.testing.assert_frame_equal(pd.concat(parts), data.X)
    assert stream.space() == data.space and len(stream) == 300
    pd.testing.assert_frame_equal(stream.head(50), data.X.head(50))


def test_a_stream_takes_kinds_and_drops(tmp_path, awkward):
    path = tmp_path / "t.csv"
    awkward.to_csv(path)  # with its index
    options = {"kinds": {"day": "categorical", "count": "real"}, "drop": ("flag", "flag or missing")}
    stream, data = Stream(path, 64, **options), read(path, **options)
    assert stream.space() == data.space
    pd.testing.assert_frame_equal(pd.concat(list(stream)), data.X)


@pytest.mark.parametrize("shape", [(100, 3), (100, 6, 6), (100, 8, 8, 3)])
@pytest.mark.parametrize("values", ["bits", "bytes", "counts", "reals"])
def test_a_stream_of_an_array(tmp_path, shape, values):
    rng = np.random.default_rng(0)
    X = {
        "bits": rng.integers(0, 2, shape).astype(np.uint8),
        "bytes": rng.integers(0, 256, shape).astype(np.uint8),
        "counts": rng.integers(0, 10_000, shape),
        "reals": rng.normal(size=shape),
    }[values]
    np.save(tmp_path / "a.npy", X)
    stream = Stream(tmp_path / "a.npy", 30)
    assert np.array_equal(np.concatenate(list(stream)), X) and np.array_equal(stream.head(45), X[:45])
    assert stream.space() == infer(X) and len(stream) == 100


def test_a_stream_samples_without_replacement(tmp_path):
    X = np.arange(1000.0)[:, None] + 0.5
    np.save(tmp_path / "a.npy", X)
    stream = Stream(tmp_path / "a.npy", 64)
    drawn = stream.sample(100, seed=3)[:, 0]
    assert len(set(drawn)) == 100 and set(drawn) <= set(X[:, 0]) and np.array_equal(drawn, stream.sample(100, 3)[:, 0])
    assert len(stream.sample(5000)) == 1000
    means = [stream.sample(100, seed).mean() for seed in range(50)]
    assert np.mean(means) == pytest.approx(500, abs=4 * 288.7 / 5000**0.5)


def test_streams_of_bad_files(tmp_path):
    with pytest.raises(ReadError, match="no such file"):
        Stream(tmp_path / "none.csv")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ReadError, match="a.txt: a file of this kind cannot be streamed"):
        Stream(tmp_path / "a.txt")
    path = written(tmp_path, "a,b\n1,2\n3,4,5\n")
    with pytest.raises(ReadError, match="^t.csv: line 3 has 3 cells"):
        list(Stream(path))
    path = written(tmp_path, "a,b\n1,2\n1,4\n")
    with pytest.raises(DataError, match="^t.csv: column 'a' is constant"):
        Stream(path).space()
    path = written(tmp_path, "a,b\n1,2\n")
    with pytest.raises(ReadError, match=r"^t.csv: the file holds 1 row\(s\)"):
        Stream(path).space()
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReadError, match="p.parquet: this is no Parquet file"):
        Stream(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="there is no column 'z' to drop"):
        list(Stream(path, drop="z"))


# ------------------------------------------------------------------------------------------------ toy and bundled


@pytest.mark.parametrize(
    "truth",
    [toy.TwoMoons(0.1), toy.TwoMoons(0.3), toy.EightGaussians(), toy.Checkerboard(), toy.CorrelatedGaussian(2, -0.6)],
    ids=lambda t: type(t).__name__,
)
def test_toy_densities_integrate_to_one_and_samples_follow_them(truth):
    side = 12.0 if isinstance(truth, toy.CorrelatedGaussian) else 4.0
    axis = (np.arange(160) + 0.5) / 160 * 2 * side - side
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(truth.log_prob(grid)) * (2 * side / 160) ** 2
    assert density.sum() == pytest.approx(1, abs=1e-6)
    X = truth.sample(20_000, random_state=0)
    mean = density @ grid
    covariance = (grid - mean).T @ ((grid - mean) * density[:, None])
    assert np.allclose(X.mean(0), mean, atol=5 * np.sqrt(np.diag(covariance) / 20_000))
    assert np.allclose(np.cov(X.T), covariance, atol=0.05 * np.diag(covariance).max())
    entropy = -np.sum(density * np.where(density > 0, truth.log_prob(grid), 0))
    logs = truth.log_prob(X)
    assert -logs.mean() == pytest.approx(entropy, abs=5 * logs.std() / 20_000**0.5 + 2e-3)


def test_correlated_gaussian_is_scipys():
    from scipy.stats import multivariate_normal

    truth = toy.CorrelatedGaussian(4, 0.5)
    X = truth.sample(50, random_state=0)
    assert np.allclose(truth.log_prob(X), multivariate_normal(np.zeros(4), truth.covariance).logpdf(X))
    with pytest.raises(DataError, match="correlation must lie between -0.333 and 1, got -0.5"):
        toy.CorrelatedGaussian(4, -0.5).sample(2)


def test_binary_chain_is_known_exactly():
    truth = toy.BinaryChain(5, 0.8)
    states, p = truth.enumerate()
    assert p.sum() == pytest.approx(1) and states.shape == (32, 5)
    X = truth.sample(40_000, random_state=0)
    counts = np.bincount(X @ 2 ** np.arange(4, -1, -1), minlength=32)
    assert ((counts - 40_000 * p) ** 2 / (40_000 * p)).sum() < 61.1  # chi-squared, 31 degrees of freedom, level 0.001
    assert truth.log_prob(np.array([[0, 1, 2, 0, 0]])).tolist() == [-np.inf]


def test_toys_are_seeded_and_touch_no_global_generator():
    before = np.random.get_state()[1].copy()
    for draw in (toy.two_moons, toy.eight_gaussians, toy.checkerboard, toy.correlated_gaussian, toy.binary_chain):
        assert np.array_equal(draw(10, random_state=3), draw(10, random_state=3))
        assert not np.array_equal(draw(10, random_state=3), draw(10, random_state=4))
    assert np.array_equal(before, np.random.get_state()[1])


def test_bundled_sets():
    digits = data_module.digits()
    assert digits.shape == (1797, 8, 8) and digits.dtype == np.uint8 and infer(digits).pixel.n_levels == 17
    table = data_module.mixed_table()
    kinds = {c.name: c.kind for c in infer(table).columns}
    assert set(kinds.values()) == {"real", "count", "binary", "categorical"} and table.shape == (442, 9)
    assert not table.isna().any().any() and table["lipids"].value_counts().min() > 20
    for name in bundled.names():
        assert len(read(name)) > 400
    with pytest.raises(DataError, match="there is no bundled data set 'mnist'"):
        bundled.load("mnist")


def test_what_was_read_survives_its_codes(tmp_path):
    text = "day,w,n,x,f\n2020-01-05,a,1,1.5,True\n2020-01-03,?,2,?,False\n?,b,?,0.5,True\n2020-02-05,c,7,2.5,True\n"
    data = read(written(tmp_path, text))
    assert [c.kind for c in data.space.columns] == ["real", "categorical", "ordinal", "real", "binary"]
    pd.testing.assert_frame_equal(data.space.decode(data.space.encode(data.X)), data.X)


def test_data_describes_itself(frame):
    data = Data.of(frame, name="people")
    assert data.describe() == "people: 200 rows; table of 4 columns (1 binary, 1 categorical, 1 count, 1 real)"
    assert data.fingerprint == Data.of(frame.copy()).fingerprint != Data.of(frame[::-1]).fingerprint
    space = Table((Column("a", "real"),), (1,))
    assert Data.of(np.eye(3)[:, :1], how=space).space is space
