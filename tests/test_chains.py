"""Markov chains and hidden ones, against sums over all paths and all rows, and counts by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from plausible.data.stream import Stream
from plausible.errors import CapabilityError, DataError
from plausible.families.direct._chain import Chain
from plausible.families.direct.gaussian import Gaussian
from plausible.families.direct.hmm import HMM
from plausible.families.direct.markov import Markov
from plausible.options import OptionError
from plausible.randomness import generator
from plausible.space import Text
from plausible.uses import given, states

S, T = 3, 4


def random_chain(seed: int, per_step: bool) -> tuple[Chain, torch.Tensor]:
    """A chain of S states, and log emissions (5, T, S); one of them has a step of which nothing is known."""
    rng = np.random.default_rng(seed)
    shape = (T - 1, S, S) if per_step else (S, S)
    chain = Chain(*(torch.from_numpy(rng.dirichlet(np.ones(S), shape[:-1] if i else None)) for i in range(2)))
    log_b = torch.from_numpy(rng.normal(scale=3, size=(5, T, S)))
    log_b[0, 1] = 0.0
    return chain, log_b


def all_paths(chain: Chain, log_b: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return all paths (P, T) and log p(x, path) of each example (n, P)."""
    paths = np.array(list(itertools.product(range(S), repeat=T)))
    a = chain.transition.numpy() if chain.transition.dim() == 3 else np.stack([chain.transition.numpy()] * (T - 1))
    prior = np.log(chain.start.numpy()[paths[:, 0]]) + sum(
        np.log(a[t - 1][paths[:, t - 1], paths[:, t]]) for t in range(1, T)
    )
    return paths, prior + sum(log_b.numpy()[:, t, paths[:, t]] for t in range(T))


@pytest.mark.parametrize("per_step", [False, True])
def test_filter_smooth_and_viterbi_are_sums_and_maxima_over_all_paths(per_step):
    chain, log_b = random_chain(0, per_step)
    paths, joint = all_paths(chain, log_b)
    log_p, alpha = chain.filter(log_b)
    assert np.allclose(log_p, logsumexp(joint, 1), atol=1e-12)
    posterior = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    weight = torch.arange(1.0, 6, dtype=torch.float64)
    gamma, counts = chain.smooth(alpha, weight[:, None].expand(-1, T))
    expected = np.stack([(posterior[:, :, None] * (paths == s)).sum(1) for s in range(S)], 2)
    assert np.allclose(gamma, expected, atol=1e-12)
    steps = np.zeros((T - 1, S, S))
    for t, i, j in itertools.product(range(1, T), range(S), range(S)):
        steps[t - 1, i, j] = weight.numpy() @ posterior[:, (paths[:, t - 1] == i) & (paths[:, t] == j)].sum(1)
    assert np.allclose(counts, steps if per_step else steps.sum(0), atol=1e-12)
    path, best = chain.likely(log_b)
    assert np.array_equal(path, paths[joint.argmax(1)]) and np.allclose(best, joint.max(1))


@pytest.mark.parametrize("per_step", [False, True])
def test_paths_are_drawn_from_their_posterior_and_their_prior(per_step):
    chain, log_b = random_chain(1, per_step)
    paths, joint = all_paths(chain, log_b[:1])
    n = 20_000
    alpha = chain.filter(log_b[:1])[1].expand(n, -1, -1)
    place = S ** np.arange(T)[::-1]
    u = torch.rand(n, T, generator=generator(0), dtype=torch.float64)
    prior = all_paths(chain, torch.zeros(1, T, S, dtype=torch.float64))[1]
    for drawn, log_p in ((chain.draw(alpha, u), joint), (chain.sample(u), prior)):
        observed = np.bincount(drawn.numpy() @ place, minlength=S**T)
        p = np.exp(log_p[0] - logsumexp(log_p[0]))
        common = p * n > 5
        expected = np.append(n * p[common], n * p[~common].sum())
        assert stats.chisquare(np.append(observed[common], observed[~common].sum()), expected).pvalue > 1e-3


def test_a_long_chain_does_not_underflow():
    chain, _ = random_chain(2, per_step=False)
    log_b = torch.from_numpy(np.random.default_rng(0).normal(-800, 300, size=(2, 3000, S)))
    log_p, alpha = chain.filter(log_b)
    gamma, counts = chain.smooth(alpha, torch.ones(2, 3000, dtype=torch.float64))
    assert torch.isfinite(log_p).all() and torch.allclose(gamma.sum(2), torch.ones(1, dtype=torch.float64))
    assert float(counts.sum()) == pytest.approx(2 * 2999)


# --------------------------------------------------------------------------------------------------------------- HMM


def two_states(n: int = 150, steps: int = 20, seed: int = 0, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Series (n, steps, channels) and the states behind them, which last for ten steps."""
    rng = np.random.default_rng(seed)
    s = (np.cumsum(rng.random((n, steps)) < 0.1, 1) + rng.integers(0, 2, (n, 1))) % 2
    return 4.0 * s[:, :, None] + rng.normal(size=(n, steps, channels)), s


def hmm_by_hand(model: HMM, X: np.ndarray) -> np.ndarray:
    """log p of series of one channel: all paths, scipy's normals, in the units of X."""
    module, scale = model.module_, model.transforms_.steps[0]
    shift, scale = scale.shift.numpy()[0, 0], scale.scale.numpy()[0, 0]
    mean = module.mean[:, 0].numpy() * scale + shift
    deviation = module.columns.deviation(module.variance)[:, 0].numpy() * scale
    start, a = module.start_p.numpy(), module.transition.numpy()
    terms = []
    for path in itertools.product(range(len(start)), repeat=X.shape[1]):
        p = np.log(start[path[0]]) + sum(np.log(a[i, j]) for i, j in itertools.pairwise(path))
        log_b = stats.norm.logpdf(X[:, :, 0], mean[list(path)], deviation[list(path)])
        terms.append(p + np.where(np.isnan(X[:, :, 0]), 0.0, log_b).sum(1))
    return logsumexp(terms, 0)


def test_hmm_density_is_the_sum_over_all_paths_also_with_steps_missing():
    X, _ = two_states(60, 4)
    model = HMM(n_states=3, max_iter=10, n_init=1, random_state=0).fit(X)
    assert np.allclose(model.log_prob(X), hmm_by_hand(model, X), atol=1e-9)
    X[::2, 1], X[1::3, 3] = np.nan, np.nan
    assert np.allclose(model.log_prob(X), hmm_by_hand(model, X), atol=1e-9)


@pytest.mark.parametrize("kind", ["levels", "mixed", "series", "strings"])
def test_baum_welch_never_falls(kind, rng):
    X = {
        "levels": rng.integers(0, 3, (200, 6)).cumsum(1) % 3,
        "mixed": pd.DataFrame({"a": rng.choice(list("xy"), 200), "b": rng.normal(size=200), "c": rng.normal(size=200)}),
        "series": two_states(40, 10, channels=3)[0],
        "strings": ["".join(rng.choice(list("abc"), k)) for k in rng.integers(1, 9, 100)],
    }[kind]
    if kind == "mixed":
        X["b"] += 3 * (X["a"] == "x")
        X["c"] += X["b"]
    model = HMM(n_states=4, prior=0, tol=0, max_iter=30, n_init=1, random_state=0).fit(X)
    assert (np.diff(model.history_["loss"]) <= 1e-6).all()
    assert model.history_["loss"].iloc[-1] < model.history_["loss"].iloc[0]


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_baum_welch_with_holes_never_falls_and_finds_what_it_finds_without(covariance, rng):
    X, _ = two_states(150, 12, channels=2)
    settings = {"n_states": 2, "prior": 1e-3, "random_state": 0, "covariance": covariance}
    whole = HMM(**settings).fit(X)
    holed = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    holed[:10, 5] = np.nan
    model = HMM(**settings, tol=0, max_iter=20).fit(holed)
    assert (np.diff(model.history_["loss"]) <= 1e-6).all()
    assert model.score(X) == pytest.approx(whole.score(X), abs=0.15)
    assert model.score(X) <= whole.score(X) + 0.01


def test_hmm_finds_the_states_behind_a_series():
    X, s = two_states()
    model = HMM(n_states=2, random_state=0).fit(X)
    found = states.likely(model, X)
    agree = (found == s).mean()
    assert max(agree, 1 - agree) > 0.97
    assert np.allclose(model.module_.transition.diagonal(), 0.9, atol=0.02)
    posterior = states.posterior(model, X)
    assert posterior.shape == (150, 20, 2) and np.allclose(posterior.sum(2), 1)
    assert (posterior.argmax(2) == found).mean() > 0.98


def test_hmm_with_one_state_is_independent_steps():
    X, _ = two_states(100, 8, channels=2)
    model = HMM(n_states=1, n_init=1, random_state=0).fit(X)
    flat = X.reshape(-1, 2)
    truth = stats.multivariate_normal(flat.mean(0), np.cov(flat.T, ddof=0))
    assert np.allclose(model.log_prob(X), truth.logpdf(X).sum(1), rtol=1e-4)
    strings = ["ab", "aab", "b", "abb", "bbb"] * 20
    model = HMM(n_states=1, prior=1e-6, n_init=1).fit(strings)
    symbols = "".join(strings) + "$" * 40  # those of full length do not end
    share = {c: symbols.count(c) / len(symbols) for c in "ab$"}
    expected = [sum(math.log(share[c]) for c in (w + "$")[:3]) for w in strings]
    assert np.allclose(model.log_prob(strings), expected, atol=1e-4)


def test_hmm_strings_add_up_to_one_and_states_end_with_them():
    words = ["abba", "ab", "", "ba", "baab"] * 10
    model = HMM(n_states=3, random_state=0).fit(words)
    every = ["".join(w) for k in range(5) for w in itertools.product("ab", repeat=k)]
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1, abs=1e-10)
    found = states.likely(model, ["ab", "abba"])
    assert (found[0] >= 0).tolist() == [True, True, True, False] and (found[1] >= 0).all()
    assert np.isnan(states.posterior(model, ["ab"])[0, 3]).all()


def test_what_follows_the_end_of_a_string_is_no_transition():
    words = ["abba", "ab", "", "b"]
    model = HMM(n_states=2, n_init=1, max_iter=1, random_state=0).fit(words)
    module = model.module_
    module.summarise(model.space_.encode(words).double(), None)
    assert float(module._sums[0].sum()) == pytest.approx(3 + 2 + 0 + 1)  # into each symbol but the first, END included


def test_weights_and_copies_take_the_same_iterations():
    X, _ = two_states(30, 6)
    weight = np.arange(30) % 3
    copies = np.repeat(X, weight, 0)
    module = HMM(n_states=2, n_init=1, max_iter=1, random_state=0).fit(X).module_
    z, w = torch.from_numpy(X), torch.from_numpy(weight).double()
    losses = []
    for x, v in ((z, w), (torch.from_numpy(copies), None)):
        losses.append(float(module.summarise(x, v)))
        losses.append([s.clone() for s in module._sums])
        module._sums = None
    assert losses[0] == pytest.approx(losses[2])
    assert all(torch.allclose(a, b) for a, b in zip(losses[1], losses[3], strict=True))


def test_cells_drawn_given_a_part_are_those_of_a_normal(rng):
    """With one state and a full covariance, what is drawn for a channel is the regression on the other."""
    flat = rng.multivariate_normal([1, -2], [[1, 0.8], [0.8, 1]], 600)
    X = flat.reshape(60, 10, 2)
    model = HMM(n_states=1, n_init=1, random_state=0).fit(X)
    holes = np.repeat(X[:1], 3000, 0)
    holes[:, :, 1] = np.nan
    filled = given.sample(model, holes, random_state=0)
    assert np.array_equal(filled[:, :, 0], holes[:, :, 0])
    truth = Gaussian().fit(flat)
    cov = np.cov(flat.T, ddof=0)
    mean = flat.mean(0)[1] + cov[0, 1] / cov[0, 0] * (X[0, :, 0] - flat.mean(0)[0])
    assert truth.score(flat) == pytest.approx(model.score(X) / 10, abs=1e-3)
    assert np.allclose(filled[:, :, 1].mean(0), mean, atol=0.05)
    assert np.allclose(filled[:, :, 1].var(0), cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0], rtol=0.15)


def test_a_gap_in_a_series_is_filled_in_the_state_around_it():
    X, s = two_states()
    model = HMM(n_states=2, random_state=0).fit(X)
    quiet = (s[:, 4:9] == 1).all(1)
    holes = X[quiet].copy()
    holes[:, 6] = np.nan
    filled = given.sample(model, holes, random_state=0)[:, 6, 0]
    assert abs(filled.mean() - 4) < 0.4


def test_hmm_refuses_what_it_cannot_do(rng):
    table = pd.DataFrame({"a": rng.normal(size=50), "b": rng.normal(size=50)})
    with pytest.raises(OptionError, match="series of several channels"):
        HMM(covariance="full").fit(table)
    with pytest.raises(CapabilityError, match="no hidden states"):
        states.likely(Gaussian().fit(table), table)


# ------------------------------------------------------------------------------------------------------------ Markov


def test_markov_counts_by_hand():
    X = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
    model = Markov().fit(X)
    a, b = model.module_.smoothing.tolist()
    first = (3 + a / 2) / (4 + a)
    q = (3 + 0.5) / (4 + 1)  # of a one in the second column
    step = (2 + b * q) / (3 + b)
    assert model.log_prob([[0, 1]])[0] == pytest.approx(math.log(first * step))
    assert model.n_parameters_ == 3


@pytest.mark.parametrize("stationary", [False, True])
def test_markov_with_missing_values_is_the_sum_over_all_rows(stationary, rng):
    X = rng.integers(0, 3, (60, 5)).cumsum(1) % 3
    model = Markov(stationary=stationary).fit(X)
    every = np.array(list(itertools.product(range(3), repeat=5)), dtype=float)
    log_p = model.log_prob(every)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-10)
    for hole in ([np.nan, 1, np.nan, np.nan, 2], [0, np.nan, 2, 1, np.nan], [np.nan] * 4 + [1]):
        row = np.array([hole])
        fits = (np.isnan(row) | (every == row)).all(1)
        assert model.log_prob(row)[0] == pytest.approx(logsumexp(log_p[fits]), abs=1e-12)
        best = every[fits][log_p[fits].argmax()]
        likely = given.impute(model, row, how="likely")
        assert model.log_prob(likely)[0] == pytest.approx(model.log_prob(best[None])[0])
        drawn = given.sample(model, np.repeat(row, 4000, 0), random_state=0)
        p = np.exp(log_p[fits] - logsumexp(log_p[fits]))
        observed = [(drawn == r).all(1).sum() for r in every[fits]]
        rare = 4000 * p < 5
        counts = [np.append(v[~rare], v[rare].sum() + 1e-9) for v in (np.array(observed), 4000 * p)]
        assert stats.chisquare(counts[0], counts[1] * counts[0].sum() / counts[1].sum()).pvalue > 1e-4


def test_markov_strings_add_up_to_one_and_text_begins_anywhere():
    words = ["abba", "ab", "", "ba", "baab"] * 10
    every = ["".join(w) for k in range(5) for w in itertools.product("ab", repeat=k)]
    assert np.exp(Markov().fit(words).log_prob(every)).sum() == pytest.approx(1, abs=1e-10)
    text = "abbabbaab" * 30
    model = Markov(space=Text.of("ab", 3, end=False)).fit(text)
    assert np.exp(model.log_prob(["".join(w) for w in itertools.product("ab", repeat=3)])).sum() == pytest.approx(1)
    assert math.exp(model.log_prob(["a"])[0]) == pytest.approx(4 / 9, abs=0.02)


def test_markov_counts_in_two_halves_and_in_a_stream(tmp_path, rng):
    X = rng.integers(0, 3, (50, 4)).cumsum(1) % 3
    whole = Markov().fit(X)
    other = whole._seeded_build(whole.space_, 0)
    for part in X[:20], X[20:]:
        other.summarise(torch.from_numpy(part).double(), None)
    other.update()
    np.save(tmp_path / "x.npy", X)
    streamed = Markov().fit(Stream(tmp_path / "x.npy", chunk=16))
    for module in (other, streamed.module_):
        assert all(torch.equal(v, module.state_dict()[k]) for k, v in whole.module_.state_dict().items())
    weight = np.arange(50) % 3
    weighted, copied = Markov(space=whole.space_), Markov(space=whole.space_)
    weighted.fit(X, sample_weight=weight)
    copied.fit(np.repeat(X, weight, 0))
    assert np.allclose(weighted.log_prob(X), copied.log_prob(X), atol=1e-12)


def test_markov_says_what_it_needs(rng):
    mixed = pd.DataFrame({"a": rng.choice(list("xyz"), 50), "b": rng.integers(0, 2, 50)})
    with pytest.raises(OptionError, match="same levels"):
        Markov(stationary=True).fit(mixed)
    with pytest.raises(DataError, match="integrate out"):
        Markov().fit(pd.DataFrame({"a": ["x", "y", None, "x"], "b": [0, 1, 1, 0]}))
