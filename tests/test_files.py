"""Model files: what comes back, and what a damaged, newer or hostile file can do (fail, with a message)."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pandas as pd
import pytest

import plausible as pl
from plausible.errors import ModelFileError, PlausibleError
from plausible.files import FORMAT, JSON, TENSORS


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=60), "k": rng.choice(list("abc"), 60), "n": rng.poisson(30, 60)})


@pytest.fixture(scope="module")
def model(frame):
    return pl.MADE(hidden=(4,), epochs=2, random_state=0).fit(frame[["x", "n"]], context=frame["k"])


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "m.plausible")
    return tmp_path / "m.plausible"


def parts(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(JSON)), archive.read(TENSORS)


def rewrite(path, described=None, blob=None, extra=None, compression=zipfile.ZIP_STORED):
    old, old_blob = parts(path)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(JSON, json.dumps(described or old))
        archive.writestr(TENSORS, old_blob if blob is None else blob)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    path.write_bytes(out.getvalue())


def test_everything_comes_back(model, frame, path):
    twin = pl.load(path)
    X, c = frame[["x", "n"]], frame["k"]
    assert np.array_equal(twin.log_prob(X, context=c), model.log_prob(X, context=c))
    pd.testing.assert_frame_equal(
        twin.sample(5, context=c[:5], random_state=1), model.sample(5, context=c[:5], random_state=1)
    )
    assert twin.get_params() == model.get_params()
    pd.testing.assert_frame_equal(twin.history_, model.history_)
    for name in ("kept_epoch_", "stopped_", "fit_seconds_", "fingerprint_", "n_parameters_", "n_features_in_"):
        assert getattr(twin, name) == getattr(model, name)
    assert twin.space_ == model.space_


def test_the_same_model_gives_the_same_bytes(model, tmp_path):
    model.save(tmp_path / "a")
    model.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_holds_no_pickle_and_no_code(path):
    described, blob = parts(path)
    assert described["family"] == "made" and described["format"] == FORMAT
    with pytest.raises((pickle.UnpicklingError, ValueError, LookupError, EOFError)):
        pickle.loads(blob)


def fails(path, words):
    with pytest.raises(ModelFileError, match=words):
        pl.load(path)


def test_absent_and_foreign_files(tmp_path):
    fails(tmp_path / "nothing", "no file")
    fails(tmp_path, "folder")
    (tmp_path / "text").write_text("hello")
    fails(tmp_path / "text", "truncated or not a plausible model")
    (tmp_path / "empty").write_bytes(b"")
    fails(tmp_path / "empty", "truncated or not")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    fails(path, "truncated or not")


def test_every_flipped_byte_of_the_tensors_is_noticed(path):
    whole = bytearray(path.read_bytes())
    at = whole.find(TENSORS.encode()) + len(TENSORS) + 2000
    whole[at] ^= 0xFF
    path.write_bytes(whole)
    fails(path, "truncated or not|damaged")  # the zip's checksum


def test_of_a_newer_format(path):
    described, _ = parts(path)
    rewrite(path, {**described, "format": 99})
    fails(path, "format 99.*upgrade")


def test_of_an_older_version(model, path):
    """It opens if nothing it holds has changed since; else the message says who wrote it, and what to do."""
    described, _ = parts(path)
    old = {**described, "format": 1, "versions": {"python": "3.11", "torch": "2"}}
    rewrite(path, old)
    assert pl.load(path).space_ == model.space_
    fitted = {**described["fitted"], "seen": {k: v for k, v in described["fitted"]["seen"].items() if k != "twice"}}
    rewrite(path, {**old, "fitted": fitted})
    fails(path, r"written by an older version of plausible \(format 1\).*fit the model again, or open")
    rewrite(path, {**old, "arguments": {**described["arguments"], "of_old": 1}})
    fails(path, "written by an older version.*'of_old'")
    rewrite(path, {**described, "versions": {"plausible": "0.0.7"}, "fitted": fitted})
    fails(path, "written by plausible 0.0.7, and this one")
    rewrite(path, {**described, "fitted": fitted})
    fails(path, "damaged.*twice")


def test_orderings_that_were_others_are_refused(tmp_path):
    """Before format 3 the second one was random: the weights of such a file would belong to another density."""
    X = np.random.default_rng(0).integers(0, 2, (40, 3))
    path = tmp_path / "m.plausible"
    pl.MADE(orderings=2, hidden=(4,), epochs=1, random_state=0).fit(X).save(path)
    described, _ = parts(path)
    assert pl.load(path).module_.orderings == 2
    rewrite(path, {**described, "format": 2})
    fails(path, "older version.*second ordering.*fit the model again")


def test_convolutions_from_before_dilation_are_undilated(tmp_path):
    """The weights have the same shapes; with today's default they would make another density."""
    X = np.random.default_rng(0).integers(0, 2, (40, 5, 5)).astype(np.uint8)
    path = tmp_path / "m.plausible"
    settings = {"channels": 4, "blocks": 2, "epochs": 1, "learning_rate": 0.1, "random_state": 0}
    model = pl.PixelCNN(dilations=(1,), **settings).fit(X)
    model.save(path)
    described, _ = parts(path)
    arguments = {k: v for k, v in described["arguments"].items() if k not in ("dilations", "mixing")}
    rewrite(path, {**described, "arguments": arguments})
    np.testing.assert_array_equal(pl.load(path).log_prob(X), model.log_prob(X))


def test_a_pickle_inside_is_never_opened(path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    rewrite(path, blob=pickle.dumps(Bomb()))
    fails(path, "tensors of .* damaged")
    rewrite(path, extra={"data.pkl": pickle.dumps(Bomb())})
    fails(path, "expected model.json and tensors.safetensors")


def test_path_traversal(path):
    rewrite(path, extra={"../../evil": "x"})
    fails(path, "not a plausible model")


def test_a_zip_bomb(path):
    rewrite(path, blob=b"\0" * 10_000_000, compression=zipfile.ZIP_DEFLATED)
    fails(path, "not stored plainly")


def test_a_huge_declared_tensor(path):
    header = json.dumps({"module.a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    rewrite(path, blob=struct.pack("<Q", len(header)) + header)
    fails(path, "damaged")
    rewrite(path, blob=struct.pack("<Q", 1 << 60))
    fails(path, "damaged")


def test_arguments_that_ask_for_more_than_the_file_holds(path):
    described, _ = parts(path)
    for hidden in ([10**6], [4] * 50, [10**12]):
        rewrite(path, {**described, "arguments": {**described["arguments"], "hidden": hidden}})
        fails(path, "has shape|lacks the tensor|larger than any")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "os.system"}, "no family"),
        ({"family": "../../evil"}, "no family"),
        ({"arguments": {"evil": 1}}, "argument it does not have"),
        ({"fitted": {"__class__": "x", "history": {}, "feature_names_in_": None}}, "which no model has"),
        ({"space": {"type": "evil"}}, "damaged"),
        ({"space": None}, "damaged"),
        ({"format": "1"}, "no format number"),
    ],
)
def test_altered_descriptions(path, change, words):
    described, _ = parts(path)
    rewrite(path, {**described, **change})
    fails(path, words)


def test_saving_what_cannot_be_saved_names_the_argument(frame, tmp_path):
    model = pl.Gaussian(random_state=np.random.RandomState(0)).fit(frame[["x", "n"]])
    with pytest.raises(PlausibleError, match="random_state"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_old_file_survives_a_failed_save(model, path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_bytes() == before


def test_saving_before_fitting_is_refused(tmp_path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        pl.MADE().save(tmp_path / "m")
