"""The audit finds what is broken: sound families with one defect each, and the check that must name it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import plausible as pl
from plausible import checks
from plausible.errors import AuditError, PlausibleError
from plausible.heads import N_UNIFORMS
from plausible.options import estimator
from plausible.randomness import uniform
from plausible.transforms import Standardise

SHORT = {"epochs": 15, "batch_size": 32, "learning_rate": 5e-3, "hidden": (16,)}


def audit(
    cls: type, kinds: set[str], methods: dict, module: dict, prepare=None, settings=None, events=("table",), **traits
):
    """Audit `cls` on `events` with columns of `kinds`, with `methods` in its shell and others in its `module` replaced.

    `prepare` is called with the new module; `traits` are changes to those of the family.
    """

    def _build(self, space, context_space):
        built = cls._build(self, space, context_space)
        built.__class__ = type("Broken", (type(built),), module)
        if prepare is not None:
            prepare(built)
        return built

    changed = dataclasses.replace(cls.traits, events=frozenset(events), kinds=frozenset(kinds), **traits)
    broken = estimator(type("Broken" + cls.__name__, (cls,), {"traits": changed, "_build": _build, **methods}))
    own = {k: v for k, v in (settings or SHORT).items() if k in cls().get_params()}
    return pl.check_model(broken(random_state=0, **own), on_fail="report")


def refuse(name: str, cls: type, kinds: set[str], methods: dict | None = None, module: dict | None = None, **more):
    """Assert that the defect makes the check of that name fail."""
    found = audit(cls, kinds, methods or {}, module or {}, **more)
    assert found[name].status == "failed", str(found)
    assert not found[name].detail.startswith("raised"), "the audit stumbled before it could see the defect"
    assert found["files_round_trip"].status == "not applicable"
    assert "not registered" in found["files_round_trip"].detail
    return found


@pytest.mark.parametrize("cls, kind", [(pl.Gaussian, "real"), (pl.MADE, "binary"), (pl.VAE, "real")])
def test_sound_families_pass(cls, kind):
    """So that what is caught below is caught for its defect."""
    assert audit(cls, {kind}, {}, {}).failed == []


# ---------------------------------------------------------------------------------------------------- the density


def test_sigmoid_applied_twice():
    def log_prob(self, z, c=None, rng=None):
        p = self.conditionals(z, c).sigmoid()
        return -nn.functional.binary_cross_entropy_with_logits(p, z, reduction="none").sum(1)

    found = refuse("samples_agree_with_the_density", pl.MADE, {"binary"}, module={"log_prob": log_prob})
    assert found["mass_sums_to_one"].status == "passed"  # which is why a sum over all states is not enough


def test_dimension_that_sees_itself():
    def _masks(self, s):
        masks = type(self).__mro__[1]._masks(self, s)
        first = self.position[s][self.heads.source]
        masks[-1] = self.position[s][self.heads.owner][:, None] >= first  # of the direct connections; > is right
        return masks

    def prepare(module):
        for i, mask in enumerate(module._masks(0)):
            setattr(module, f"mask_{i}", mask.float())

    found = refuse("mass_sums_to_one", pl.MADE, {"binary"}, module={"_masks": _masks}, prepare=prepare)
    assert found["steps_give_the_conditionals"].status == "failed"


SMALL = {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "channels": 4, "blocks": 1, "layers": 1}
IMAGES = {"events": ("image",), "settings": SMALL}


def test_pixel_that_sees_itself():
    def prepare(module):
        first = module.net.layers[0].across
        first.mask[-1, first.here] = 1  # the tap at the pixel

    found = refuse("mass_sums_to_one", pl.PixelCNN, {"binary"}, prepare=prepare, **IMAGES)
    assert found["steps_give_the_conditionals"].status == "failed"


def colours_see(module, whom: dict[int, tuple[int, ...]]) -> None:
    """Let the net inside a pixel tell each channel of those that `whom` lists for it, and of no other."""
    if module.parts == 1:
        return
    part = torch.arange(3)
    hidden, told = part.repeat_interleave(module.n_hidden), part.repeat_interleave(module.n_features)
    allowed = torch.tensor([[j in whom[k] for j in range(3)] for k in range(3)])
    module.mask_in = allowed[hidden][:, told].float()
    module.mask_out = torch.eye(3)[part.repeat_interleave(module.n_out // 3)][:, hidden]


def test_right_order_of_colours_passes():
    own = {0: (), 1: (0,), 2: (0, 1)}
    found = audit(pl.PixelCNN, {"binary"}, {}, {}, prepare=lambda module: colours_see(module, own), **IMAGES)
    assert found.failed == []


def test_green_and_blue_that_see_each_other():
    both = {0: (), 1: (0, 2), 2: (0, 1)}
    found = refuse(
        "mass_sums_to_one", pl.PixelCNN, {"binary"}, prepare=lambda module: colours_see(module, both), **IMAGES
    )
    assert "colour images" in found["mass_sums_to_one"].detail
    assert found["steps_give_the_conditionals"].status == "failed"


def test_red_that_sees_green():
    """A density all the same, of another order than the one it is drawn in."""
    swapped = {0: (1,), 1: (), 2: (0, 1)}
    prepare = lambda module: colours_see(module, swapped)  # noqa: E731
    found = refuse("steps_give_the_conditionals", pl.PixelCNN, {"binary"}, prepare=prepare, **IMAGES)
    assert found["mass_sums_to_one"].status == "passed"
    assert "colour images" in found["steps_give_the_conditionals"].detail


def test_wrong_log_determinant():
    def forward(self, z, c=None):
        u, log_det = type(self).__mro__[1].forward(self, z, c)
        return u, 0.9 * log_det

    short = SHORT | {"layers": 2, "coupling": "affine", "epochs": 3}
    refuse("mass_sums_to_one", pl.CouplingFlow, {"real"}, module={"forward": forward}, settings=short)


def test_forgotten_jacobian():
    class Forgetful(Standardise):
        def forward(self, x, rng=None):
            z, log_c = super().forward(x, rng)
            return z, torch.zeros_like(log_c)

    methods = {"_transforms": lambda self, space: [Forgetful()]}
    found = refuse("change_of_units", pl.MADE, {"real"}, methods)
    assert found["mass_sums_to_one"].status == "failed"


def test_log_prob_that_depends_on_the_batch():
    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, z - 0.1 * z.mean(0), c, rng)

    found = refuse("log_prob_ignores_the_batch", pl.Gaussian, {"real"}, module={"log_prob": log_prob})
    assert found["log_prob_ignores_order"].status == "passed"


def test_log_prob_that_depends_on_the_place():
    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, z, c, rng) + 0.1 * (torch.arange(len(z)) % 2)

    refuse("log_prob_ignores_order", pl.Gaussian, {"real"}, module={"log_prob": log_prob})


def test_log_prob_that_changes():
    calls = itertools.count()

    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, z, c, rng) + 1e-9 * next(calls)

    refuse("log_prob_is_deterministic", pl.Gaussian, {"real"}, module={"log_prob": log_prob})


def test_infinite_log_prob():
    def log_prob(self, z, c=None, rng=None):
        log_p = type(self).__mro__[1].log_prob(self, z, c, rng)
        return torch.where((z[:, 0] > 2) & (not self.training), -torch.inf, log_p)

    refuse("log_prob_is_finite", pl.Gaussian, {"real"}, module={"log_prob": log_prob})


def test_bound_above_the_truth():
    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, z, c, rng) + 3.0

    quick = SHORT | {"epochs": 3}
    refuse("a_bound_lies_on_its_side", pl.VAE, {"real"}, module={"log_prob": log_prob}, settings=quick)


def test_biased_importance_weights():
    def log_weight(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_weight(self, z, c, rng) + 0.2

    quick = SHORT | {"epochs": 3}
    refuse("importance_weights_average_to_one", pl.VAE, {"real"}, module={"log_weight": log_weight}, settings=quick)


def test_missing_cells_filled_in():
    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, torch.nan_to_num(z), c, rng)

    refuse("missing_cells_are_integrated_out", pl.Gaussian, {"real"}, module={"log_prob": log_prob})


def test_worse_than_independent_columns():
    def log_prob(self, z, c=None, rng=None):
        spread = torch.diag(self.covariance.diagonal() * 1.5)
        return torch.distributions.MultivariateNormal(self.mean, spread).log_prob(z)

    refuse("beats_independent", pl.Gaussian, {"real"}, module={"log_prob": log_prob})


# ---------------------------------------------------------------------------------------------------- the samples


@pytest.mark.parametrize("temperature", [0.9, 1.1])
def test_wrong_temperature_of_reals(temperature):
    def sample(self, n, c=None, *, rng):
        drawn = type(self).__mro__[1].sample(self, n, c, rng=rng)
        return self.mean + temperature * (drawn - self.mean)

    found = refuse("samples_agree_with_the_density", pl.Gaussian, {"real"}, module={"sample": sample})
    assert found["mass_sums_to_one"].status == "passed"


@pytest.mark.parametrize("temperature", [0.85, 1.15])
def test_wrong_temperature_of_bits(temperature):
    def sample(self, n, c=None, *, rng):
        u = uniform(rng, (n, self.dims, N_UNIFORMS), self.layers[0].weight)
        z = torch.zeros(n, self.dims)
        for d in range(self.dims):
            z[:, d] = self.heads.sample(self.conditionals(z, c) / temperature, u)[:, d]
        return z

    refuse("samples_agree_with_the_density", pl.MADE, {"binary"}, module={"sample": sample})


def test_draw_that_ignores_what_is_known():
    def sample_given(self, z, c=None, *, rng):
        blind = type(self).__mro__[1].sample_given(self, torch.full_like(z, torch.nan), rng=rng)
        return torch.where(z.isnan(), blind, z)

    name = "draws_given_a_part_agree_with_the_density"
    refuse(name, pl.Histogram, {"real"}, module={"sample_given": sample_given})


def test_draw_that_changes_what_is_known():
    def sample_given(self, z, c=None, *, rng):
        return type(self).__mro__[1].sample_given(self, torch.full_like(z, torch.nan), rng=rng)

    name = "draws_given_a_part_agree_with_the_density"
    found = refuse(name, pl.Histogram, {"binary"}, module={"sample_given": sample_given})
    assert "known" in found[name].detail


def test_step_cache_that_drifts():
    def step(self, state, value=None):
        params = type(self).__mro__[1].step(self, state, value)
        return params * (1 + 1e-3 * state.k)

    refuse("steps_give_the_conditionals", pl.MADE, {"binary"}, module={"step": step})


def test_memory_of_a_recurrent_net_that_drifts():
    def net_steps(self, n, c):
        steps = type(self).__mro__[1].net_steps(self, n, c)
        column = steps.column

        def drifting(x):
            for layer in steps.layers:
                layer.memory *= 1 + 1e-3
            return column(x)

        steps.column = drifting
        return steps

    refuse("steps_give_the_conditionals", pl.PixelRNN, {"binary"}, module={"net_steps": net_steps}, **IMAGES)


def test_fast_sampler_that_is_not_the_slow_one():
    def from_uniforms(self, u, c=None, known=None, s=0):
        return type(self).__mro__[1].from_uniforms(self, u.flip(1), c, known, s)

    found = refuse("fast_sampler_is_the_slow_one", pl.MADE, {"binary"}, module={"from_uniforms": from_uniforms})
    assert found["samples_agree_with_the_density"].status == "passed"


def test_samples_of_another_type():
    methods = {"sample": lambda self, n=1, **how: pl.Gaussian.sample(self, n, **how).tolist()}
    refuse("samples_look_like_the_data", pl.Gaussian, {"real"}, methods)


def test_sampler_that_ignores_the_seed():
    def sample(self, n, c=None, *, rng):
        return type(self).__mro__[1].sample(self, n, c, rng=torch.Generator().manual_seed(0))

    refuse("samples_follow_the_seed", pl.Gaussian, {"real"}, module={"sample": sample})


# ------------------------------------------------------------------------------------------------------- the fit


def test_dead_parameter():
    def prepare(module):
        module.unused = nn.Parameter(torch.zeros(3))

    found = refuse("every_parameter_learns", pl.MADE, {"binary"}, prepare=prepare)
    assert "unused" in found["every_parameter_learns"].detail


def test_loss_that_is_not_the_density():
    def loss(self, z, c=None, *, rng=None):
        return 1 - self.log_prob(z, c)

    refuse("loss_is_minus_log_prob", pl.MADE, {"binary"}, module={"loss": loss})


@pytest.mark.parametrize("draw", [lambda: torch.randn(1), np.random.rand, torch.manual_seed])
def test_touched_global_generator(draw):
    def fit(self, X, y=None, **how):
        draw(1)
        return pl.Gaussian.fit(self, X, y, **how)

    def draw_torch(self, X, y=None, **how):
        draw()
        return pl.Gaussian.fit(self, X, y, **how)

    takes_nothing = draw.__name__ == "<lambda>"
    refuse("global_state_is_left_alone", pl.Gaussian, {"real"}, {"fit": draw_torch if takes_nothing else fit})


def test_fit_that_reads_the_global_generator():
    def update(self):
        type(self).__mro__[1].update(self)
        self.mean.add_(1e-6 * torch.randn(len(self.mean)))

    found = refuse("same_seed_same_fit", pl.Gaussian, {"real"}, module={"update": update})
    assert found["global_state_is_left_alone"].status == "failed"


def test_ignored_weights():
    methods = {"_weights": lambda self, sample_weight, x: None}
    refuse("sample_weight_counts", pl.Gaussian, {"real"}, methods)


def test_ignored_context():
    def log_prob(self, z, c=None, rng=None):
        return type(self).__mro__[1].log_prob(self, z, None if c is None else torch.zeros_like(c), rng)

    refuse("context_changes_the_answer", pl.MADE, {"binary"}, module={"log_prob": log_prob})


def test_context_taken_in_silence():
    methods = {"_fit_context": lambda self, context, n: pl.Gaussian._fit_context(self, None, n)}
    refuse("context_is_refused_where_it_means_nothing", pl.Gaussian, {"real"}, methods)


def test_missing_cells_that_crash():
    def fit(self, X, y=None, **how):
        if np.isnan(X).any():
            raise RuntimeError("tensor of shape (3, 4)")
        return pl.MADE.fit(self, X, y, **how)

    refuse("missing_cells", pl.MADE, {"real"}, {"fit": fit})


def test_density_that_is_not_promised():
    methods = {"log_prob": lambda self, X: np.zeros(len(X))}
    refuse("absent_capabilities_say_so", pl.Gaussian, {"real"}, methods, density=None)


def test_fit_that_fails_on_what_it_accepts():
    def fit(self, X, y=None, **how):
        raise IndexError("out of range")

    found = refuse("fits_what_it_says_it_can", pl.Gaussian, {"real"}, {"fit": fit})
    assert "IndexError" in found["fits_what_it_says_it_can"].detail


# ------------------------------------------------------------------------------------------------------ the audit


@estimator
class Crooked(pl.Gaussian):
    """Gaussian whose log_prob is off by a constant."""

    traits = dataclasses.replace(pl.Gaussian.traits, events=frozenset({"table"}), kinds=frozenset({"real"}))

    def log_prob(self, X, *, context=None, importance_samples=None):
        return super().log_prob(X, context=context) + 0.1


def test_error_names_what_is_broken():
    with pytest.raises(AuditError, match="mass_sums_to_one") as error:
        pl.check_model(Crooked)
    assert "promised" in str(error.value)
    assert "log_prob_is_finite" not in str(error.value)


def test_exceptions_carry_a_reason():
    found = pl.check_model(
        Crooked(),
        exceptions={
            "mass_sums_to_one": "off by a constant",
            "missing_cells_are_integrated_out": "as above",
            "log_prob_is_finite": "a mistake",
        },
        on_fail="report",
    )
    assert found["mass_sums_to_one"].status == "excepted"
    assert "off by a constant" in found["mass_sums_to_one"].detail
    assert "not needed" in found["log_prob_is_finite"].detail
    assert "mass_sums_to_one" not in found.failed
    with pytest.raises(PlausibleError, match="reason"):
        pl.check_model(Crooked, exceptions={"mass_sums_to_one": " "})
    with pytest.raises(PlausibleError, match="did you mean 'mass_sums_to_one'"):
        pl.check_model(Crooked, exceptions={"mass_sums_to_on": "why not"})


def test_audit_can_be_read():
    found = pl.check_model(Crooked(), on_fail="report")
    assert "✗ mass_sums_to_one: failed" in str(found)
    assert set(found.failed) | set(found.passed) < set(checks.names())
    assert [o.name for o in found] == checks.names()
    with pytest.raises(KeyError, match="no check is called 'mass'"):
        found["mass"]
    with pytest.raises(PlausibleError, match="got KMeans"):
        from sklearn.cluster import KMeans

        pl.check_model(KMeans())
