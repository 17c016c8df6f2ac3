"""The linear belief net: logistic regressions of scikit-learn, enumeration, and the choice of the penalty."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

import plausible as pl
from plausible.errors import BudgetWarning
from plausible.families.autoregressive import fvsbn
from plausible.families.autoregressive.fvsbn import _FVSBN
from plausible.heads import N_UNIFORMS
from plausible.nn.compiled import available
from plausible.options import OptionError
from plausible.space import Column, Space

BIT = Column("bit", "binary", (0, 1))
MIXED = (BIT, Column("colour", "categorical", ("r", "g", "b")), Column("real", "real"), BIT)


def net(columns, n_context: int = 0, orderings: int = 1) -> _FVSBN:
    with torch.random.fork_rng(devices=[]):
        module = _FVSBN(Space(tuple(columns), (len(columns),)), n_context, 3, orderings).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def every(dims: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(2), repeat=dims)), dtype=torch.float64)


def chain(n: int, dims: int, seed: int = 0) -> np.ndarray:
    """Each bit is the one before it but for one in four."""
    rng = np.random.default_rng(seed)
    return (np.cumsum(rng.random((n, dims)) < 0.25, 1) + rng.integers(0, 2, (n, 1))) % 2


# ------------------------------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("orderings", [1, 3])
def test_the_probabilities_of_all_bits_sum_to_one(n_context, orderings):
    module = net([BIT] * 8, n_context, orderings)
    c = torch.ones(256, 2, dtype=torch.float64) if n_context else None
    assert module.log_prob(every(8), c).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_conditionals_are_logits_linear_in_what_is_before():
    module = net([BIT] * 6)
    z = every(6)
    params = module.conditionals(z)
    for d in range(6):
        wanted = module.bias[0, d] + (2 * z[:, :d] - 1) @ module.weight[0, d, :d]
        assert torch.allclose(params[:, d], wanted, atol=1e-12)


def test_in_another_ordering_logits_are_linear_in_what_comes_first_there():
    module = net([BIT] * 6, orderings=3)
    z, order = every(6), module.order_of(2)
    params = module.conditionals(z, None, 2)
    for k, d in enumerate(order):
        wanted = module.bias[2, d] + (2 * z[:, order[:k]] - 1) @ module.weight[2, d, order[:k]]
        assert torch.allclose(params[:, d], wanted, atol=1e-12)
    each = torch.stack([module.log_prob_in_order(z, None, s).exp() for s in range(3)])
    assert torch.allclose(module.log_prob(z).exp(), each.mean(0), atol=1e-12)


def test_the_loss_is_that_of_each_ordering_on_average():
    module, z = net(MIXED, orderings=3), torch.tensor([[0.0, 2, 0.3, 1], [1, 1, -2.0, 0], [1, 0, torch.nan, 1]])
    each = torch.stack([module.log_prob_in_order(z.double(), None, s) for s in range(3)])
    assert torch.allclose(module.loss(z.double()), -each.mean(0), atol=1e-12)
    module.n_active = 1
    assert torch.allclose(module.loss(z.double()), -each[0], atol=1e-12)


@pytest.mark.parametrize("columns", [[BIT] * 6, MIXED], ids=["bits", "mixed"])
@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("s", [0, 1])
def test_draws_are_those_of_the_full_pass(columns, n_context, s):
    module, dims = net(columns, n_context, 2), len(columns)
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(40, dims, N_UNIFORMS, generator=generator, dtype=torch.float64)
    c = torch.randn(40, 2, generator=generator, dtype=torch.float64) if n_context else None
    z = torch.zeros(40, dims, dtype=torch.float64)
    for d in module.order_of(s):
        z[:, d] = module.heads.sample(module.conditionals(z, c, s), u)[:, d]
    assert torch.allclose(module.from_uniforms(u, c, s=s), z, atol=1e-9)


@pytest.mark.skipif(not available(), reason="numba is not installed")
@pytest.mark.parametrize("s", [0, 1])
def test_bits_are_drawn_with_and_without_numba_alike(monkeypatch, s):
    module = net([BIT] * 7, orderings=2)
    u = torch.rand(60, 7, N_UNIFORMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = torch.full((60, 7), torch.nan, dtype=torch.float64)
    known[:, :2] = torch.tensor([1.0, 0.0])
    compiled = [module.from_uniforms(u, s=s), module.from_uniforms(u, None, known, s)]
    assert (compiled[1][:, :2] == known[:, :2]).all() and not torch.equal(*compiled)
    monkeypatch.setattr("plausible.nn.compiled.available", lambda: False)
    assert torch.equal(module.from_uniforms(u, s=s), compiled[0])
    assert torch.equal(module.from_uniforms(u, None, known, s), compiled[1])


@pytest.mark.parametrize("orderings", [1, 3])
def test_draws_follow_the_probabilities(draws, orderings):
    module = net([BIT] * 4, orderings=orderings)
    expected = module.log_prob(every(4)).exp().detach().numpy() * 20_000
    z = module.sample(20_000, rng=draws).long().numpy()
    found = np.bincount(np.ravel_multi_index(z.T, (2,) * 4), minlength=16)
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


# ---------------------------------------------------------------------------------------------------------- the fit


FULL = {"validation_fraction": 0.0, "epochs": 200, "batch_size": 400, "random_state": 0}


@pytest.mark.parametrize("penalty", [1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fixed_penalty_is_penalised_logistic_regression(penalty, weighted):
    """Of standardised columns. scikit-learn's C is 1 / lambda, and it does not penalise the intercept either."""
    X = chain(400, 4)
    X[::2, 0] = 0  # so that not all deviations are alike
    w = 1.0 + np.arange(400) % 3 if weighted else None
    model = pl.FVSBN(penalty=penalty, norm="l2", **FULL).fit(X, sample_weight=w)
    assert model.penalty_ == penalty
    x = (2 * X - 1) / (2 * X.std(0))
    wanted = np.zeros(len(X))
    for d in range(4):
        if d == 0:
            p = np.full(len(X), np.average(X[:, 0], weights=w))
        else:
            logistic = LogisticRegression(C=1 / penalty, tol=1e-8).fit(x[:, :d], X[:, d], sample_weight=w)
            p = logistic.predict_proba(x[:, :d])[:, 1]
            found = model.module_.weight[0, d, :d].detach().numpy() * 2 * X.std(0)[:d]
            np.testing.assert_allclose(found, logistic.coef_[0], atol=2e-3)
        wanted += np.where(X[:, d] == 1, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(model.log_prob(X), wanted, atol=5e-3)


@pytest.mark.parametrize("orderings", [1, 2])
def test_an_l1_penalty_meets_the_conditions_of_its_minimum(orderings):
    """The slope of -log p is lambda, towards zero, at every weight that is not zero, and at most that at the others."""
    X, penalty = chain(400, 6), 10.0
    X[::2, 0] = 0  # so that not all deviations are alike
    module = pl.FVSBN(penalty=penalty, orderings=orderings, **FULL).fit(X).module_
    x = torch.tensor(2.0 * X - 1)
    for s in range(orderings):
        W, mask = module.weight[s].detach(), module.mask[s] > 0
        p = torch.sigmoid(module.conditionals(torch.tensor(X, dtype=torch.float32), None, s)).detach()
        slope = (p - torch.tensor(X)).T.float() @ x.float() / x.std(0, correction=0).float()  # of the sum of -log p
        large, zero = mask & (W.abs() > 0.02), mask & (W.abs() <= 0.02)
        assert large.any() and zero.any()
        assert torch.allclose(slope[large], -penalty * W[large].sign(), atol=0.5)
        assert (slope[zero].abs() < penalty + 0.5).all()


def test_several_orderings_are_each_fitted_and_their_mixture_is_the_model():
    """Each ordering comes close to the truth, and the mixture is no worse than they are on average."""
    X = chain(1500, 6)
    model = pl.FVSBN(orderings=3, penalty=3.0, epochs=100, batch_size=500, random_state=0).fit(X[:1000])
    module, z = copy.deepcopy(model.module_).double(), torch.tensor(X[1000:], dtype=torch.float64)
    each = [module.log_prob_in_order(z, None, s).mean().item() for s in range(3)]
    truth = -np.log(2) - 5 * stats.entropy([0.25, 0.75])
    assert all(abs(value - truth) < 0.1 for value in each), (each, truth)
    assert model.score(X[1000:]) >= np.mean(each)
    assert model.module_.n_parameters == 3 * (6 + 15)


def test_noise_gets_a_large_penalty_and_structure_a_small_one():
    noise = np.random.default_rng(0).integers(0, 2, (300, 20))
    copies = np.repeat(np.random.default_rng(1).integers(0, 2, (300, 1)), 4, 1)
    of_noise = pl.FVSBN(epochs=30, random_state=0).fit(noise).penalty_
    of_copies = pl.FVSBN(epochs=30, random_state=0).fit(copies).penalty_
    assert of_noise >= 10 > 1 >= of_copies


@pytest.mark.parametrize("seed", range(3))
def test_penalties_that_leave_no_weight_do_not_end_the_search(seed):
    """Of 54 examples no sum is as large as 300 or 100: those fits are alike but for the noise of their steps."""
    model = pl.FVSBN(epochs=20, batch_size=20, random_state=seed).fit(chain(60, 12, seed))
    assert model.penalty_ < 30


def test_the_penalty_is_where_the_parabola_is_lowest():
    penalties = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
    for lowest in (20.0, 2.0):
        losses = 3 + 0.7 * (np.log(penalties) - np.log(lowest)) ** 2
        k = losses.argmin()
        assert fvsbn._lowest(losses[: k + 2].tolist(), penalties) == pytest.approx(lowest)
    assert fvsbn._lowest([1.0, 2.0], penalties) == 300
    assert fvsbn._lowest([3.0, 2.0, 1.0], penalties) == 30
    assert fvsbn._lowest([2.0, 1.0, 1.0], penalties) >= 30


@pytest.mark.parametrize("columns", [[BIT] * 6, MIXED], ids=["bits", "mixed"])
def test_from_the_largest_penalty_on_no_weight_is_left(columns):
    """There, and not below, zero is where the subgradient has zero: a small step away from it raises the loss."""
    module, z = _FVSBN(Space(tuple(columns), (len(columns),)), 0, 3).double(), torch.tensor(chain(50, len(columns)))
    z = z.double()
    module.look(z)
    largest, W = module.largest_penalty(z), module.weight
    slope = torch.autograd.grad(module.loss(z).mean(), W)[0]
    for factor in (1.01, 0.99):
        module.penalise(factor * largest * 50, 50)
        with torch.no_grad():
            W.zero_()
            at_zero = module.train().loss(z).mean()
            k = (slope / module.spread).abs().argmax()
            W.view(-1)[k] = -1e-4 * slope.view(-1)[k].sign()
            assert (module.loss(z).mean() > at_zero) == (factor > 1)


def test_the_last_fit_sees_all_examples_and_the_penalty_is_saved(tmp_path):
    """The choice is made on a tenth; what comes out is the fit of all with the penalty that was chosen."""
    X = chain(500, 5)
    model = pl.FVSBN(random_state=0, batch_size=500).fit(X)
    again = pl.FVSBN(random_state=1, penalty=model.penalty_, validation_fraction=0.0, batch_size=500, epochs=300).fit(X)
    np.testing.assert_allclose(model.log_prob(X), again.log_prob(X), atol=0.01)
    model.save(tmp_path / "m.plausible")
    assert pl.load(tmp_path / "m.plausible").penalty_ == model.penalty_ > 0
    rows = model.history_
    assert rows.epoch.is_monotonic_increasing and rows.epoch.iloc[-1] == model.kept_epoch_
    assert rows.held_out.isna().iloc[-1] and rows.held_out.notna().any()


def test_a_budget_is_kept_and_said_once():
    X = chain(20_000, 60)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = pl.FVSBN(random_state=0, budget=1.0, epochs=1000).fit(X)
    assert [w.category for w in said].count(BudgetWarning) <= 1
    assert model.stopped_ == "budget" and model.score(X) > -60 * np.log(2)


def test_a_checkpoint_needs_a_number(tmp_path):
    with pytest.raises(OptionError, match="penalty as a number"):
        pl.FVSBN(checkpoint=str(tmp_path / "c")).fit(chain(100, 3))


@pytest.mark.parametrize("when", [1, 3])
def test_an_interrupt_ends_the_search_for_a_penalty(monkeypatch, when):
    original, fits = pl.FVSBN._fit_once, []

    def broken_off(self, module, train, held_out, rng, last=True, **changes):
        history = original(self, module, train, held_out, rng, last, **changes)
        fits.append(held_out is not None)
        if len(fits) == when:
            history.stopped, history.best = "interrupted", math.inf if when > 1 else history.best
        return history

    monkeypatch.setattr(pl.FVSBN, "_fit_once", broken_off)
    model = pl.FVSBN(epochs=3, random_state=0).fit(chain(300, 6))
    assert model.stopped_ == "interrupted"
    assert fits == [True] * when  # and no fit to all examples


def test_a_refit_has_the_penalty_it_says(monkeypatch):
    found, original = [], _FVSBN.penalise

    def noted(self, penalty, n):
        original(self, penalty, n)
        found.append((n, self.per_example * n))

    monkeypatch.setattr(_FVSBN, "penalise", noted)
    model = pl.FVSBN(penalty=10, refit=True, validation_fraction=0.5, epochs=2, random_state=0).fit(chain(200, 4))
    assert found[-1] == (200, pytest.approx(10))
    assert model.penalty_ == 10
    assert model.module_.per_example == pytest.approx(10 / 200)


def test_the_clock_of_a_search_goes_on():
    model = pl.FVSBN(epochs=2, random_state=0).fit(chain(300, 4))
    assert model.history_["seconds"].is_monotonic_increasing
    assert model.history_["epoch"].is_monotonic_increasing


def test_what_is_masked_is_no_parameter():
    columns = [Column("bit", "binary", (0, 1)), Column("real", "real")]
    for s in (1, 2):
        module = net(columns, orderings=s)
        used = sum(int(module.mask[k].sum()) for k in range(s)) + module.bias.numel()
        assert module.n_parameters == used
