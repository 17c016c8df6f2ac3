"""p(x | c) where c is an image, a text, a series or a sound: against distributions that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import plausible as pl
from plausible import registry
from plausible.cli import app
from plausible.context import Encoder, infer_context
from plausible.errors import CapabilityError, DataError, ModelFileError, SpaceError
from plausible.nn.grid import GridNet
from plausible.space import Clips, infer
from plausible.uses.classify import classify

LEARN = registry.capable(lambda f: f.traits.context and f()._encoded_features() is not None)
SMALL = {"hidden": (16,), "context_features": 8, "random_state": 0}


def entropy(p):
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)))


def bits_of_images(n, seed=0):
    """Images of 6x6 with a bright spot left or right; three bits, of which two depend on where the spot is."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 2, n)
    images = rng.integers(0, 60, (n, 6, 6))
    images[np.arange(n), rng.integers(0, 6, n), rng.integers(0, 3, n) + 3 * right] = 255
    p = np.where(right[:, None], [0.9, 0.2, 0.5], [0.1, 0.8, 0.5])
    return (rng.random((n, 3)) < p).astype(int), images.astype(np.uint8)


@pytest.fixture(scope="module")
def of_images():
    X, images = bits_of_images(2000)
    return pl.MADE(**SMALL, epochs=20, learning_rate=5e-3, batch_size=64).fit(X, context=images)


def test_the_density_given_images_approaches_the_true_one(of_images):
    X, images = bits_of_images(2000, seed=1)
    truth = -(entropy(0.9) + entropy(0.8) + np.log(2))
    given, error = of_images.log_prob(X, context=images).mean(), of_images.log_prob(X, context=images).std() / 2000**0.5
    assert truth - 0.06 < given < truth + 4 * error
    without = pl.MADE(hidden=(16,), epochs=10, random_state=0).fit(X).score(X)
    assert given > without + 0.2  # the marginal, which knows no spot


def test_the_density_given_an_image_sums_to_one(of_images):
    _, images = bits_of_images(5, seed=2)
    states = np.array(list(itertools.product((0, 1), repeat=3)))
    for image in images:
        assert np.exp(of_images.log_prob(states, context=image[None])).sum() == pytest.approx(1, abs=1e-9)


def test_samples_given_an_image_follow_the_density_given_it(of_images):
    X, images = bits_of_images(2, seed=3)
    states = np.array(list(itertools.product((0, 1), repeat=3)))
    for image in images:
        drawn = of_images.sample(4000, context=image[None], random_state=0) @ [4, 2, 1]
        shares = np.bincount(drawn, minlength=8) / 4000
        p = np.exp(of_images.log_prob(states, context=image[None]))
        assert np.abs(shares - p).max() < 5 * np.sqrt(0.25 / 4000)
    both = of_images.sample(context=np.repeat(images, 1000, 0), random_state=0)  # a row for each
    means = [of_images.sample(1000, context=image[None], random_state=1).mean(0) for image in images]
    assert np.abs(both.reshape(2, 1000, 3).mean(1) - means).max() < 0.1


def test_no_row_depends_on_the_others(of_images):
    X, images = bits_of_images(50, seed=4)
    together = of_images.log_prob(X, context=images)
    alone = [of_images.log_prob(X[i : i + 1], context=images[i : i + 1])[0] for i in range(50)]
    assert np.allclose(together, alone, rtol=0, atol=1e-12)


def test_a_file_holds_the_encoder(of_images, tmp_path):
    X, images = bits_of_images(20, seed=5)
    of_images.save(tmp_path / "m.plausible")
    read = pl.load(tmp_path / "m.plausible")
    assert np.array_equal(read.log_prob(X, context=images), of_images.log_prob(X, context=images))
    draws = [m.sample(context=images, random_state=0) for m in (read, of_images)]
    assert np.array_equal(*draws)
    assert (
        read.n_parameters_ == of_images.n_parameters_ > sum(p.numel() for p in Encoder(infer(images), 8).parameters())
    )


def test_what_is_given_and_scored_in_part_takes_such_a_context(of_images):
    from plausible.uses import given

    X, images = bits_of_images(30, seed=6)
    draws = given.sample(of_images, np.where([True, False, False], X, np.nan), context=images, random_state=0)
    assert np.array_equal(draws[:, 0], X[:, 0])
    rest = given.log_prob(of_images, X, np.array([True, False, False]), context=images)
    each = of_images.log_prob(X, context=images, reduce=None)
    assert np.allclose(rest, each[:, 1:].sum(1))


def test_a_family_keeps_its_precision(of_images):
    assert of_images._evaluator().dtype == torch.float64  # the convolutions are those of the encoder
    assert not of_images.module_.context_encoder.heavy
    large = infer(np.random.default_rng(0).integers(0, 256, (2, 3, 128, 128)).astype(np.uint8))
    assert Encoder(large, 8).heavy


# ------------------------------------------------------------------------------------------------ other contexts


def test_a_text_as_context():
    """A bit is likely where the word holds a q, wherever it stands."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcd"), rng.integers(3, 10))) for _ in range(2500)]
    has = rng.random(2500) < 0.5
    words = [w[: (k := rng.integers(len(w)))] + "q" + w[k:] if q else w for w, q in zip(words, has, strict=True)]
    X = (rng.random((2500, 1)) < np.where(has, 0.9, 0.1)[:, None]).astype(int)
    model = pl.MADE(**SMALL, epochs=30, learning_rate=5e-3).fit(X[:2000], context=words[:2000])
    assert model.context_space_.type == "text"
    assert -entropy(0.9) - 0.06 < model.log_prob(X[2000:], context=words[2000:]).mean() < -entropy(0.9) + 0.12
    assert model.sample(3, context="abqa").shape == (3, 1)  # one string is one row
    p = np.exp(model.log_prob(np.array([[0], [1]]), context="abqa"))
    assert p.sum() == pytest.approx(1) and p[1] > 0.8
    with pytest.raises(SpaceError, match="'z', which was not seen"):
        model.sample(context=["abz"])
    with pytest.raises(SpaceError, match="11 characters|12 characters"):
        model.sample(context=["abqaabqaabqa"])
    with pytest.raises(SpaceError, match="context of strings"):
        model.log_prob(X[:2], context=np.zeros((2, 3)))


def test_series_that_end_early_as_context():
    """x ~ N(mean of the series, 0.3^2); sequences have 3 to 8 steps."""
    rng = np.random.default_rng(0)
    series = [rng.normal(rng.normal(), 1, (rng.integers(3, 9), 1)) for _ in range(2500)]
    X = np.array([s.mean() for s in series])[:, None] + 0.3 * rng.normal(size=(2500, 1))
    settings = {"context_space": "series", "components": 1, "epochs": 30, "learning_rate": 5e-3}
    model = pl.MADE(**SMALL, **settings).fit(X[:2000], context=series[:2000])
    truth = -0.5 * np.log(2 * np.pi * np.e * 0.3**2)
    assert model.context_space_.ragged and model.context_space_.shape == (8, 1)
    assert truth - 0.12 < model.log_prob(X[2000:], context=series[2000:]).mean() < truth + 0.12
    longer = model.log_prob(X[:1], context=[series[0]])
    padded = np.full((1, 8, 1), np.nan)
    padded[0, : len(series[0])] = series[0]
    assert np.array_equal(longer, model.log_prob(X[:1], context=padded))


def test_sounds_as_context():
    """Loud or soft: the label that goes with a clip."""
    rng = np.random.default_rng(0)
    loud = rng.integers(0, 2, 300)
    clips = Clips([rng.normal(0, 3000 if k else 300, rng.integers(40, 80)).astype(np.int16) for k in loud], 8000)
    X = np.where(rng.random(300) < 0.95, loud, 1 - loud)[:, None]
    model = pl.MADE(**SMALL, epochs=40, learning_rate=5e-3, batch_size=32).fit(X[:200], context=clips[:200])
    assert model.context_space_.length == max(map(len, clips[:200]))  # a clip is one context, whatever its length
    assert model.log_prob(X[200:], context=clips[200:]).mean() > -0.35  # true: -0.2, without: -0.69
    with pytest.raises(SpaceError, match="300 samples"):
        model.sample(context=Clips([np.ones(300, np.int16)], 8000))


def test_colour_and_real_images_as_context():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (60, 1))
    for images in (rng.integers(0, 256, (60, 3, 5, 7)).astype(np.uint8), rng.normal(size=(60, 9, 9))):
        model = pl.MADE(**SMALL, epochs=1).fit(X, context=images)
        assert np.isfinite(model.log_prob(X, context=images)).all()


def test_strings_are_labels_unless_most_occur_once():
    assert infer_context(["high", "low"] * 50).columns[0].levels == ("high", "low")
    words = [f"word {i}" for i in range(100)]
    assert infer_context(words).type == "text"
    assert infer_context(words, "table").columns[0].n_levels == 100
    assert infer_context(["high", "low"] * 50, "text").type == "text"
    assert infer_context([0, 1, 2] * 10, {"context": "categorical"}).columns[0].kind == "categorical"


def test_labels_are_what_they_were():
    """One row of features for each level, by the heads, and nothing to learn of it."""
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], 100)
    X = rng.integers(0, 2, (100, 2))
    model = pl.MADE(**SMALL, epochs=2).fit(X, context=labels)
    assert torch.equal(model._encode_context(["a", "b", "c"], None), torch.eye(3))
    assert model.module_.context_encoder is None
    frame = pl.MADE(**SMALL, epochs=2).fit(X, context=pd.DataFrame({"context": labels}))
    assert np.array_equal(
        model.log_prob(X, context=labels), frame.log_prob(X, context=pd.DataFrame({"context": labels}))
    )


# --------------------------------------------------------------------------------------------------- all families


def some(name):
    """Small data that the family can model, and settings that make the fit short."""
    cls, rng = registry.get(name), np.random.default_rng(0)
    bright = rng.integers(0, 2, 60)
    images = (rng.integers(0, 50, (60, 4, 4)) + 200 * bright[:, None, None]).astype(np.uint8)
    if "table" in cls.traits.events:
        X = rng.integers(0, 2, (60, 3)) * bright[:, None] if cls.can_model(infer(images > 100)) is None else None
        X = rng.normal(bright[:, None], 1, (60, 2)) if X is None else X
    elif "image" in cls.traits.events:
        X = (rng.random((60, 3, 3)) < 0.2 + 0.6 * bright[:, None, None]).astype(np.uint8)
    else:
        X = ["ab" if b else "ba" for b in bright]
    small = {"hidden": (8,) if isinstance(cls().get_params().get("hidden"), tuple) else 8, "channels": 4, "blocks": 1}
    small |= {"epochs": 2, "batch_size": 8, "context_features": 4, "layers": 1, "width": 8, "heads": 1}
    known = cls().get_params()
    return cls, X, images, {k: v for k, v in small.items() if k in known}


@pytest.mark.parametrize("name", LEARN)
def test_every_family_trained_by_gradient_learns_an_encoder(name, tmp_path):
    cls, X, images, settings = some(name)
    model = cls(**settings, random_state=0).fit(X, context=images)
    start = cls(**settings, random_state=0, learning_rate=1e-12).fit(X, context=images)
    pairs = zip(model.module_.context_encoder.parameters(), start.module_.context_encoder.parameters(), strict=True)
    moved = [float((a - b).detach().abs().max()) for a, b in pairs]
    assert min(moved) > 0, "a part of the encoder has no gradient"
    model.save(tmp_path / "m")
    read = pl.load(tmp_path / "m")
    draws = [m.space_.encode(m.sample(context=images[:5], random_state=0)) for m in (model, read)]
    assert torch.equal(*(d.nan_to_num(-1.0) for d in draws)) and len(draws[0]) == 5
    if cls.traits.density:
        assert np.array_equal(*(m.log_prob(X, context=images) for m in (model, read)))
        other = images[::-1]
        assert not np.array_equal(model.log_prob(X, context=images), model.log_prob(X, context=other))


def test_a_family_that_counts_says_who_learns_features():
    X, images = bits_of_images(20)
    with pytest.raises(CapabilityError, match=r"grey images of 6x6 .*made"):
        pl.NaiveBayes().fit(X, context=images)
    with pytest.raises(CapabilityError, match="takes no context"):
        pl.Histogram().fit(X, context=images)


def test_classes_are_no_images(of_images):
    with pytest.raises(CapabilityError, match="context of labels; .*6x6 pixels"):
        classify(of_images)


def test_a_comparison_knows_all_contexts():
    """A character that is held out only is known to the models; one that takes labels only says so."""
    X, _ = bits_of_images(100)
    words = [f"word {chr(200 + i)}" for i in range(100)]
    found = pl.compare(X, ["naive_bayes", pl.MADE(**SMALL, epochs=1)], context=words, n_samples=20)
    reasons = {row.name: row.why for row in found.rows}
    assert reasons["made"] is None and "learn features of it" in reasons["naive_bayes"]


# ------------------------------------------------------------------------------------------------------ training


def test_a_killed_fit_goes_on_and_another_context_is_refused(tmp_path):
    X, images = bits_of_images(200)
    settings = SMALL | {"epochs": 6, "batch_size": 8, "checkpoint": str(tmp_path / "c"), "checkpoint_every": 0.0}
    whole = pl.MADE(**settings).fit(X, context=images)

    class Killed(pl.MADE):
        def _step(self, module):
            step, seen = super()._step(module), []

            class Dies(type(step)):
                def __call__(self, batch, rng):
                    seen.append(1)
                    if len(seen) > 50:
                        raise RuntimeError("killed")
                    return super().__call__(batch, rng)

            step.__class__ = Dies
            return step

    def kill():
        with pytest.raises(RuntimeError, match="killed"):
            Killed(**settings).fit(X, context=images)

    kill()
    resumed = pl.MADE(**settings, resume=True).fit(X, context=images)
    assert np.array_equal(resumed.log_prob(X, context=images), whole.log_prob(X, context=images))
    kill()
    with pytest.raises(ModelFileError, match="another fit"):
        pl.MADE(**settings, resume=True).fit(X, context=images[::-1])


def test_an_encoder_learns_no_faster_than_suits_it():
    X, images = bits_of_images(100)
    model = pl.FVSBN(penalty=0.0, learning_rate=0.05, epochs=1, random_state=0).fit(X, context=images)
    step = model._step(model.module_)
    rates = [group["lr"] for group in step.optimiser.param_groups]
    assert rates == [0.05, 2e-3]
    step.progress(0.5)
    assert [group["lr"] for group in step.optimiser.param_groups] == pytest.approx([0.025, 1e-3])


def test_the_net_keeps_how_bright_an_example_is():
    """Constant inputs of different size are told apart at any size: nothing is normalised on the straight way."""
    torch.manual_seed(0)
    for places in ((2, 3), (16, 16), (1, 9), (100,)):
        net = GridNet(1, places, 4)
        x = torch.ones(2, 1, *places) * torch.tensor([1.0, 100.0]).reshape(2, *[1] * (len(places) + 1))
        a, b = net(x)
        assert (b - a).norm() > 3 * a.norm()


# -------------------------------------------------------------------------------------------------- command line


def run(*args):
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout + result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two-level images of 4x4 with a label, and as a context the mean of each quarter."""
    at = tmp_path_factory.mktemp("context")
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (60, 4, 4)).astype(np.uint8)
    low = X.reshape(-1, 2, 2, 2, 2).sum((2, 4)).astype(np.uint8)
    label = np.where(X[:, 0, 0], "light", "dark")
    np.savez(at / "images.npz", X=X, low=low, label=label)
    np.savez(at / "three.npz", X=low[:3])
    np.save(at / "apart.npy", low)
    (at / "words.txt").write_text("".join(f"{'ab' if x[0, 0] else 'ba'} word {i}\n" for i, x in enumerate(X)))
    pd.DataFrame({"x": X[:, 0, 0], "kind": label, "level": rng.integers(0, 3, 60)}).to_csv(at / "rows.csv", index=False)
    return at


FIT = ("-m", "made", "--epochs", 1, "--hidden", 4, "--context-features", 4)


def test_images_as_context_on_the_command_line(folder, tmp_path):
    for given in ("low", folder / "apart.npy"):
        model = tmp_path / "m.plausible"
        code, said = run("fit", folder / "images.npz", *FIT, "--context", given, "-o", model)
        assert code == 0 and "context: " in said and "2x2 pixels, 5 levels" in said, said
        assert pl.load(model).context_space_.type == "image"
        assert "2x2 pixels" in run("info", model)[1]
        assert "-o" in run("sample", model, "--context", folder / "three.npz")[1]
        code, said = run("sample", model, "--context", folder / "three.npz", "-n", 4, "-o", tmp_path / "s.npz")
        assert code == 0 and "12 examples (4 of each of 3 contexts)" in said
        assert pl.read(tmp_path / "s.npz").X.shape == (12, 4, 4)
        assert "--context FILE" in run("sample", model, "-o", tmp_path / "s.png")[1]
        assert run("score", model, folder / "images.npz", "--context", given)[0] == 0
        assert "--context ARRAY" in run("score", model, folder / "images.npz")[1]  # low, or label?
    assert (
        "one for each of 60 examples, got 3"
        in run("fit", folder / "images.npz", *FIT, "--context", folder / "three.npz")[1]
    )
    assert "no array 'high'" in run("fit", folder / "images.npz", *FIT, "--context", "high")[1]


def test_text_as_context_on_the_command_line(folder, tmp_path):
    model = tmp_path / "m.plausible"
    assert run("fit", folder / "images.npz", *FIT, "--context", folder / "words.txt", "-o", model)[0] == 0
    assert pl.load(model).context_space_.type == "text"
    assert run("sample", model, "--context", "ab word 7", "-o", tmp_path / "s.png")[0] == 0
    assert "not seen" in run("sample", model, "--context", "ab Word", "-o", tmp_path / "s.png")[1]


def test_a_grid_with_a_row_for_each_label(folder, tmp_path):
    model = tmp_path / "m.plausible"
    assert run("fit", folder / "images.npz", *FIT, "--context", "label", "-o", model)[0] == 0
    assert run("score", model, folder / "images.npz")[0] == 0
    how = ("--context", "label=all", "-n", 5, "--seed", 0)
    assert run("sample", model, *how, "-o", tmp_path / "grid.png")[0] == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (5 * 66 + 2, 2 * 66 + 2)  # five side by side, a row for each of two labels
    assert run("sample", model, *how, "-o", tmp_path / "s.npz")[0] == 0
    drawn = pl.load(model).sample(context=["dark"] * 5 + ["light"] * 5, random_state=0)
    assert np.array_equal(pl.read(tmp_path / "s.npz").X, drawn)


def test_the_kind_of_a_column_holds_for_the_context_too(folder, tmp_path):
    model = tmp_path / "m.plausible"
    told = (*FIT, "--context", "level", "--kind", "level=categorical", "-o", model)
    assert run("fit", folder / "rows.csv", *told)[0] == 0
    assert pl.load(model).context_space_.columns[0].kind == "categorical"
    code, said = run("sample", model, "--context", "level=all", "-n", 2)
    assert code == 0 and len(said.strip().splitlines()) == 1 + 6


# -------------------------------------------------------------------------------------------------------- errors


def test_contexts_that_do_not_fit(of_images):
    X, images = bits_of_images(4)
    for wrong, match in (
        (images[:, :5], r"expected images of shape \(n, 6, 6\)"),
        (images[0], r"expected images of shape \(n, 6, 6\)"),
        (["a"] * 4, "expected images"),
        (images[:3], "context of 1 or 4 rows, got 3"),
        (None, "fitted with a context"),
    ):
        with pytest.raises(DataError, match=match):
            of_images.log_prob(X, context=wrong)
    by_label = pl.MADE(**SMALL, epochs=1).fit(X, context=["a", "b", "a", "b"])
    with pytest.raises(SpaceError, match="label or a vector"):
        by_label.log_prob(X, context=images)
    with pytest.raises(DataError, match="one string"):
        pl.MADE(context_space="text").fit(X, context="abcdefgh")
