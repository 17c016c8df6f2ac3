"""Inside: what the module of a model answers, in model space."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench, encoded
from plausible.heads import N_UNIFORMS
from plausible.randomness import RowNoise, generator
from plausible.training import Batch


@check
def loss_is_minus_log_prob(bench: Bench) -> str:
    """Where the density is exact, the mean of the module's loss out of training is minus the mean of its log_prob."""
    if bench.traits.density != "exact":
        raise NotApplicable(f"its density is {bench.traits.density or 'absent'}")
    for case in bench.some("toy data"):
        model = bench.fitted(case)
        module = model._evaluator()
        z, c = encoded(model, case.draw())
        with torch.no_grad():
            loss = module.loss(z, c, rng=RowNoise(z)).mean()
            log_p = module.log_prob(z, c, RowNoise(z)).mean()
        if not torch.isclose(loss, -log_p, rtol=1e-6, atol=1e-6):
            raise Broken(f"on {case.name}, the mean loss is {loss:.6g} and the mean log_prob {log_p:.6g}")
    return "equal"


@check
def every_parameter_learns(bench: Bench) -> str:
    """A step of training gives every parameter tensor a gradient that is finite and not all zero."""
    # Of a single column there is nothing for a net to look at, of a single row of pixels nothing above.
    cases = bench.some("examples of several dimensions", _has_all_directions)[:2]
    jobs = [(bench.fitted(c), c.draw(), None) for c in cases]
    if bench.traits.context:
        jobs.append(bench.conditional)
    if not any(p.requires_grad for m, _, _ in jobs for p in m.module_.parameters()):
        raise NotApplicable("it is not trained by gradient")
    n = 0
    for model, X, context in jobs:
        module = copy.deepcopy(model.module_).train()
        dtype = next(module.parameters()).dtype
        z, c = encoded(model, X, context)
        batch = Batch(z.to(dtype), None if c is None else c.to(dtype), None)
        step, rng = model._step(module), generator(0, model._device())
        dead = {name for name, p in module.named_parameters() if p.requires_grad}
        n += len(dead)
        for _ in range(8):
            step(batch, rng)
            for name, p in module.named_parameters():
                if p.grad is not None and not torch.isfinite(p.grad).all():
                    raise Broken(f"the gradient of {name} is not finite")
                if p.grad is not None and p.grad.abs().max() > 0:
                    dead.discard(name)
        if dead:
            raise Broken(f"in eight steps no gradient reached {', '.join(sorted(dead)[:5])}")
    return f"{n} tensors"


def _has_all_directions(space: Any) -> bool:
    return space.dims > 1 and (space.type != "image" or min(space.shape[1:]) > 1)


def _stepwise(bench: Bench) -> list[tuple]:
    """(case name, model, module, z, c) of each case, for families that offer conditionals."""
    if not bench.traits.conditionals:
        raise NotApplicable("it offers no conditionals")
    jobs = [(c.name, bench.fitted(c), c.draw(), None) for c in bench.some("toy data")]
    if bench.traits.context:
        jobs.append(("data with a context", *bench.conditional))
    out = []
    for name, model, X, context in jobs:
        z, c = encoded(model, X, context)
        out.append((name, model, model._evaluator(), z.flatten(1)[:50], None if c is None else c[:50]))
    return out


@check
def fast_sampler_is_the_slow_one(bench: Bench) -> str:
    """Drawing a dimension at a time gives what a full pass per dimension would draw from the same uniforms.

    If z came from the uniforms u, then so does every z_d from the parameters that a full pass over z gives it.
    """
    for name, _, module, z, c in _stepwise(bench):
        u = torch.rand((len(z), z.shape[1], N_UNIFORMS), generator=generator(0), dtype=z.dtype)
        with torch.no_grad():
            fast = module.from_uniforms(u, c).double()
            slow = module.heads.sample(module.conditionals(fast, c), u).double()
        off = (fast - slow).abs() > 1e-6 * (1 + slow.abs())
        if off.any():
            d = int(off.any(0).nonzero()[0])
            raise Broken(f"on {name}, the two samplers differ in {int(off.sum())} values, first in dimension {d}")
    return "same uniforms, same draws"


@check
def steps_give_the_conditionals(bench: Bench) -> str:
    """`step` gives each dimension the parameters that the full pass gives it, and these depend on earlier ones only."""
    worst = 0.0
    for name, _, module, z, c in _stepwise(bench):
        with torch.no_grad():
            full, state, value, seen = module.conditionals(z, c), module.start(len(z), c), None, []
            for d in state.order:
                params = module.step(state, value)
                wanted = full[:, module.heads.single(d)[1]]
                off = float(((params - wanted).abs() / (1 + wanted.abs())).max())
                worst = max(worst, off)
                if not off < 1e-6:
                    raise Broken(
                        f"on {name}, step and full pass differ by {off:.2g} in the parameters of dimension {d}"
                    )
                hidden = torch.full_like(z, 1.0)  # what is not seen yet may be anything
                hidden[:, seen] = z[:, seen]
                blind = module.conditionals(hidden, c)[:, module.heads.single(d)[1]]
                if not torch.allclose(blind, wanted, rtol=1e-6, atol=1e-6):
                    raise Broken(f"on {name}, p(x_{d} | earlier ones) changes with x_{d} itself or a later one")
                value = z[:, d]
                seen.append(d)
    return f"largest difference {worst:.1g}"


@check
def dimensions_add_up(bench: Bench) -> str:
    """Where a family takes dimension after dimension, log_prob of each given those before adds up to log_prob."""
    if not bench.traits.conditionals:
        raise NotApplicable("it offers no conditionals")
    worst = 0.0
    for case in bench.with_density():
        model, X = bench.fitted(case), case.draw(50, seed=2)
        if model.likelihood_kind_ != "exact":
            continue
        each, whole = model.log_prob(X, reduce=None), model.log_prob(X)
        if len(each) != len(X) or each[0].size != model.space_.dims:
            raise Broken(f"on {case.name}, log_prob(reduce=None) of {len(X)} examples has shape {each.shape}")
        off = np.abs(np.nansum(each.reshape(len(X), -1), 1) - whole).max()
        worst = max(worst, off)
        if not off < 1e-4:
            raise Broken(f"on {case.name}, the dimensions add up to {off:.3g} nats more or less than the whole")
    return f"to {worst:.1g} nats"
