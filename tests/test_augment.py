"""More examples, and more of a group: shares to the row, laws within the group, and a check that can say no."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.errors import CapabilityError, DataError
from plausible.evaluate.novelty import in_shares
from plausible.evaluate.utility import Utility
from plausible.uses.augment import _wanted, augment
from plausible.uses.balance import balance
from plausible.uses.debias import debias

QUICK = {"classifier": LogisticRegression(C=1e6, max_iter=2000), "repeats": 6}


# ----------------------------------------------------------------------------------------------------- augmentation


def bits(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bits that are independent given the class: naive Bayes knows that, a regression without penalty does not."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    return (rng.random((n, 25)) < np.where(y, 0.62, 0.38)[:, None]).astype(int), y


def test_it_helps_where_the_model_knows_what_the_classifier_does_not():
    X, y = bits(120)
    found = augment(pl.NaiveBayes(), X, y, n=3000, random_state=0, **QUICK)
    assert found.helped
    mean, stderr = found.utility.difference("real + synthetic")
    assert mean > 2 * stderr > 0


def test_it_does_not_help_where_labels_are_noise():
    for seed in range(3):
        X, y = bits(80, seed)
        labels = np.random.default_rng(seed).permutation(y)
        found = augment(pl.NaiveBayes(), X, labels, n=100, random_state=seed, **QUICK)
        assert not found.helped
        assert "did not help" in str(found)


def test_a_dense_class_drawn_more_often_is_no_copying():
    """Rows of a tight class are near to each other, drawn or real: distances are compared class by class."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 3, size=(600, 2)), rng.normal(20, 0.1, size=(90, 2))])
    y = np.repeat([0, 1], [600, 90])
    found = augment(pl.Gaussian(), X, y, target="uniform", random_state=0, **QUICK)
    assert found.copying.p_value > 0.01
    assert 0.6 < found.novelty.ratio < 1.6  # 0.1 if distances in one class were held against those in another
    assert found.novelty.real_copies == 0


def test_a_yardstick_has_the_classes_of_what_it_measures():
    real, theirs = np.array([1.0, 2, 3, 4, 50, 60]), np.array([0, 0, 0, 0, 1, 1])
    assert in_shares(real, theirs, np.array([1, 1, 1, 1, 0, 0])).tolist() == [2, 4, 50, 50, 60, 60]
    assert in_shares(real, theirs, theirs).tolist() == real.tolist()
    assert in_shares(real, theirs, np.array([1, 2])).tolist() == [60]  # of a class without real rows nothing is known


def test_copies_are_warned_of():
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    X = rng.normal(size=(160, 3)) + y[:, None]
    by_heart = augment(pl.KernelDensity(bandwidth=1e-4), X, y, n=160, random_state=0, **QUICK)
    assert "warning: they copy" in str(by_heart)
    assert "warning" not in str(augment(pl.Gaussian(), X, y, n=160, random_state=0, **QUICK))


def test_what_comes_back():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [60, 25, 15])
    X = pd.DataFrame({"n": rng.poisson(5, 100), "r": rng.normal(size=100), "w": rng.choice(["u", "v"], 100)})
    found = augment(pl.NaiveBayes(random_state=0), X, y, n=80, target="uniform", check=False, random_state=0)
    assert list(found.X.columns) == list(X.columns)
    pd.testing.assert_frame_equal(found.X[:100], X)
    assert found.X.dtypes.equals(X.dtypes)
    assert found.synthetic.sum() == 80
    assert pd.Series(found.y).value_counts().to_dict() == {"a": 60, "b": 60, "c": 60}
    assert found.helped is None
    exact = augment(pl.NaiveBayes(), X, y, target={"c": 7}, check=False, random_state=0)
    assert list(exact.y[100:]) == ["c"] * 7


def test_made_up_examples_follow_their_class():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=500)
    X = rng.normal(size=(500, 1)) * np.where(y, 0.3, 1.0)[:, None] + 4 * y[:, None]
    found = augment(pl.Gaussian(), X, y, n=2000, check=False, random_state=1)
    for c in (0, 1):
        drawn = found.X[500:][found.y[500:] == c, 0]
        assert stats.kstest(drawn, "norm", args=(X[y == c].mean(), X[y == c].std())).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 5, 20, 57, 300])
def test_uniform_fills_the_rarest_first(n):
    k = np.repeat([0, 1, 2], [50, 20, 5])
    wanted = _wanted(np.arange(3), k, n, "uniform")
    assert wanted.sum() == n
    after = np.bincount(k) + wanted
    raised = wanted > 0
    # Those raised end level, and none that was left alone is below them.
    assert np.ptp(after[raised]) <= 1
    assert (after[~raised] >= after[raised].max() - 1).all()
    assert abs(_wanted(np.arange(3), k, n, "same") - n * np.bincount(k) / 75).max() < 1


def test_utility_is_the_corrected_t_test():
    rng = np.random.default_rng(0)
    real, more = rng.normal(0.8, 0.01, 10), rng.normal(0.85, 0.01, 10)
    found = Utility("accuracy", {"real": real, "more": more}, test_ratio=3 / 7)
    d = more - real
    assert found.difference("more") == pytest.approx((d.mean(), np.sqrt((0.1 + 3 / 7) * d.var(ddof=1))))
    assert found.verdict("more") == "helped"
    assert Utility("accuracy", {"real": more, "more": real}, 3 / 7).verdict("more") == "hurt"
    assert Utility("accuracy", {"real": real, "more": real}, 3 / 7).verdict("more") == "did not help"


def test_augment_refuses():
    X, y = bits(24)
    for match, how in {
        "a label for each": {"y": y[:-1]},
        "two classes": {"y": np.zeros(24)},
        "n must be": {"n": 0},
        "target must be": {"target": "more"},
        "labels among": {"target": {7: 3}},
        "scoring must be": {"scoring": "beauty"},
        "repeats": {"repeats": 1},
        "4 examples of each class": {"y": np.r_[2, 2, y[2:]]},
    }.items():
        with pytest.raises(DataError, match=match):
            augment(pl.Gaussian(), X, **{"y": y, **how})


# ----------------------------------------------------------------------------------------------------------- balance


def people(n: int = 500, seed: int = 0) -> pd.DataFrame:
    """One in ten is of the group; their height has another mean, and a label that depends on it."""
    rng = np.random.default_rng(seed)
    rare = np.arange(n) % 10 == 0
    height = rng.normal(2.0 * rare, 1.0)
    label = np.where(height + rng.normal(0, 0.3, n) > 2.0 * rare, "yes", "no")
    return pd.DataFrame({"group": np.where(rare, "rare", "common"), "height": height, "label": label})


@pytest.mark.parametrize("target", [0.2, 1 / 3, 0.5, 0.9])
def test_share_is_hit_and_the_law_within_the_group_stays(target):
    X = people()
    model = pl.Mixture(n_components=4, random_state=0).fit(X)
    found = balance(model, X, group={"group": "rare"}, target=target, random_state=0)
    pd.testing.assert_frame_equal(found.X[:500], X)
    assert found.synthetic.sum() == len(found.X) - 500
    assert (found.X.group[found.synthetic] == "rare").all()
    assert found.share_after == (found.X.group == "rare").mean()
    assert abs(found.share_after - target) <= 0.5 / len(found.X)
    made, real = found.X.height[found.synthetic], X.height[X.group == "rare"]
    assert stats.ks_2samp(made, real).pvalue > 1e-3
    assert found.difference is None or found.difference.p_value > 1e-3


def test_ways_to_draw_agree():
    """By the context, given the column, and by drawing until it fits: the same law of the rest."""
    X = people(1000)
    rare = X[X.group == "rare"]
    group, how = {"group": "rare"}, {"target": 0.6, "random_state": 0}
    given = balance(pl.Mixture(n_components=4, random_state=0).fit(X), X, group=group, **how)
    rest, context = X[["height", "label"]], X[["group"]]
    by_context = pl.NaiveBayes(density="mixture", random_state=0).fit(rest, context=context)
    conditional = balance(by_context, rest, context=context, group=group, **how)
    assert (conditional.context.group[conditional.synthetic] == "rare").all()
    # A model that draws in order cannot take the last column as given: it draws until it fits.
    turned = X[["height", "label", "group"]]
    net = pl.MADE(hidden=(16,), epochs=6, learning_rate=0.02, random_state=0).fit(turned)
    fitted = balance(net, turned, group=group, **how)
    drawn = net.sample(20_000, random_state=1)
    for found, truth in (
        (given, rare.height),
        (conditional, rare.height),
        (fitted, drawn.height[drawn.group == "rare"]),
    ):
        made = found.X[found.synthetic]
        assert len(made) == 1250
        assert stats.ks_2samp(made.height, truth).pvalue > 1e-3


def test_a_group_by_an_expression_and_by_lists():
    X = people()
    model = pl.Mixture(n_components=4, random_state=0).fit(X)
    found = balance(model, X, group="height > 2 and label == 'yes'", target=0.4, random_state=0)
    made = found.X[found.synthetic]
    assert ((made.height > 2) & (made.label == "yes")).all()
    assert found.group == "height > 2 and label == 'yes'"
    listed = balance(model, X, group={"group": ["rare"], "label": ["no"]}, target=0.3, random_state=0)
    assert (listed.X[listed.synthetic][["group", "label"]] == ["rare", "no"]).all(axis=None)


def test_scores_per_group_before_and_after():
    """Training on real rows, on rows balanced by the model and by copies, judged on the group and on the others."""
    X = people(700)
    model = pl.Mixture(n_components=6, random_state=0)
    found = balance(
        model.fit(X), X, group={"group": "rare"}, target=0.5, label="label", scoring="accuracy", random_state=0, **QUICK
    )
    shown = found.table()
    assert set(shown.index.get_level_values(0)) == {"the group", "all others", "all rows"}
    assert list(shown.loc["the group"].index) == ["real", "balanced by the model", "balanced by copies"]
    # A row of all is of the group or of the others, in every split.
    share = (X.group == "rare").mean()
    mean = {name: shown.loc[(name, "real"), "accuracy"] for name in ("the group", "all others", "all rows")}
    assert mean["all rows"] == pytest.approx(share * mean["the group"] + (1 - share) * mean["all others"], abs=0.01)


def test_a_target_just_above_the_share_is_checked_all_the_same():
    """In the training part of a split the share of the group may be above it."""
    X = people(61)
    model = pl.Mixture(n_components=2, random_state=0).fit(X)
    share = (X.group == "rare").mean()
    found = balance(model, X, group={"group": "rare"}, target=share + 0.002, label="label", random_state=0, **QUICK)
    assert found.utility is not None


def test_a_score_that_a_small_group_does_not_define_is_left_out():
    """All of the group have one label: of the group alone there is no log loss, of all rows there is."""
    X = people(200)
    X.loc[X.group == "rare", "label"] = "yes"
    model = pl.Mixture(n_components=2, random_state=0).fit(X)
    settings = {"target": 0.3, "label": "label", "scoring": "neg_log_loss", "random_state": 0}
    found = balance(model, X, group={"group": "rare"}, **settings, **QUICK)
    assert set(found.utility) == {"all others", "all rows"}


def test_arrays_and_refusals():
    X = people()
    model = pl.Mixture(n_components=2, random_state=0).fit(X)
    numbers = X[["height"]].assign(bit=(X.group == "rare").astype(float)).to_numpy()
    found = balance(pl.Mixture(n_components=2, random_state=0).fit(numbers), numbers, group={"x1": 1}, target=0.5)
    assert isinstance(found.X, np.ndarray)
    assert found.X[:, 1].mean() == pytest.approx(0.5, abs=1e-3)
    for match, how in {
        "between the present share": {"target": 0.05},
        "no column 'size'": {"group": {"size": 3}},
        "no row is of the group": {"group": {"group": "none"}},
        "fitted without one": {"context": X.group},
        "no column 'mood'": {"label": "mood"},
    }.items():
        with pytest.raises(DataError, match=match):
            balance(model, X, **{"group": {"group": "rare"}, "target": 0.5, **how})
    images = np.random.default_rng(0).integers(0, 2, (30, 4, 4)).astype(np.uint8)
    with pytest.raises(DataError, match="rows of a table"):
        balance(pl.Independent().fit(images), images, group={"a": 1}, target=0.5)


# ------------------------------------------------------------------------------------------------ debias by density


@pytest.mark.parametrize("model", [pl.KernelDensity(), pl.VAE(latent=2, hidden=(16,), epochs=10, random_state=0)])
def test_rare_kinds_come_more_often(model):
    rng = np.random.default_rng(0)
    kind = rng.choice(2, 800, p=[0.95, 0.05])
    X = rng.normal(size=(800, 2)) + 6 * kind[:, None]
    found = debias(model.fit(X), X, keep=0.3, random_state=0)
    shares = found.shares(kind)
    assert shares.loc[1, "after"] > 2 * shares.loc[1, "before"]
    assert found.effective == pytest.approx(0.3, abs=1e-6)
    assert found.weights.mean() == pytest.approx(1)
    times = np.bincount(found.index, minlength=800)
    assert (np.abs(times - found.weights) < 1).all()  # systematic
    assert found.by == ("latent code" if model.traits.latent else "density")
    same = debias(model, X, keep=1.0, random_state=0)
    np.testing.assert_allclose(same.weights, 1.0)
    np.testing.assert_array_equal(same.X, X)


def test_with_all_of_the_density_a_discrete_law_becomes_uniform():
    X = pd.DataFrame({"a": np.repeat(["x", "y", "z"], [70, 20, 10])})
    found = debias(pl.Independent().fit(X), X, keep=0.1, n=3000, random_state=0)
    assert found.power == 1.0
    np.testing.assert_allclose(found.shares(X.a)["after"], 1 / 3, atol=0.01)  # but for the smoothing


def test_debias_refuses():
    X = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.raises(DataError, match="keep"):
        debias(pl.Gaussian().fit(X), X, keep=0)
    with pytest.raises(CapabilityError, match="no latent code"):
        debias(pl.GAN(epochs=1, hidden=(4,)).fit(X), X)


# ---------------------------------------------------------------------------------------------------------- commands


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_commands(tmp_path):
    X = people(300)
    data, model, out = tmp_path / "people.csv", tmp_path / "m.plausible", tmp_path / "more.csv"
    X.to_csv(data, index=False)
    pl.NaiveBayes(random_state=0).fit(X).save(model)
    said = run("augment", model, data, "--label", "label", "-n", 50, "--repeats", 3, "-o", out, "--seed", 0)
    assert "on held-out examples" in said
    more = pd.read_csv(out)
    assert list(more.columns) == ["group", "height", "label", "synthetic"]
    assert more.synthetic.sum() == 50
    run("augment", model, data, "--label", "label", "--no-check", "--target", "uniform", "-o", tmp_path / "u.parquet")
    assert len(pd.read_parquet(tmp_path / "u.parquet")) == 600
    said = run("balance", model, data, "--group", "group=rare", "--target", 0.4, "-o", out, "--seed", 0)
    assert "10.00% before, 40.00% after" in said
    assert (pd.read_csv(out).group == "rare").mean() == pytest.approx(0.4, abs=2e-3)
    said = run("balance", model, data, "--where", "height > 3", "--target", 0.3, "-o", out)
    assert "height > 3" in said
    said = run("balance", model, data, "-o", out, "--seed", 0)
    assert "effective sample size 50%" in said
    assert len(pd.read_csv(out)) == 300
    refused = CliRunner().invoke(app, ["augment", str(model), str(data), "--label", "size"])
    assert refused.exit_code == 2


def test_augment_images_by_their_context(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=80)
    images = (rng.random((80, 4, 4)) < np.where(y, 0.8, 0.2)[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "d.npz", X=images, y=y)
    model = pl.NaiveBayes(random_state=0).fit(images, context=pd.DataFrame({"y": y}))
    model.save(tmp_path / "m.plausible")
    run("augment", tmp_path / "m.plausible", tmp_path / "d.npz", "--label", "y", "--key", "X", "--no-check",
        "-o", tmp_path / "more.npz")  # fmt: skip
    with np.load(tmp_path / "more.npz") as held:
        X, of, synthetic = held["X"], held["y"], held["synthetic"]
    assert X.shape == (160, 4, 4)
    assert synthetic.sum() == 80
    drawn = X[synthetic].mean((1, 2))
    assert drawn[of[80:] == 1].mean() > 0.7 > 0.3 > drawn[of[80:] == 0].mean()
