"""The loops of `_kernels` as functions of tensors, with gradients; where numba is absent nothing here is called.

    out_d = V_d . h_d,    h_d = act(a + sum_{i<d} x_i W_i)

The gradients are exact: they are the same sums as automatic differentiation takes, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from plausible.nn import compiled

KINDS = {"sigmoid": 0, "tanh": 1, "relu": 2}
UNITS = KINDS | {"elu": 3, "gelu": 4, "silu": 5}  # what `sample_masked` knows
FEWEST = 16  # examples a thread should have
LANES = 16  # numbers that are added at once: rows of a multiple of these leave no rest to do one by one


def hidden_dots(x: torch.Tensor, W: torch.Tensor, V: torch.Tensor, a: torch.Tensor, kind: str) -> torch.Tensor:
    """Return out (n, D) of features x (n, D), W and V (D, H) and sums a (n, H) before any dimension."""
    return _HiddenDots.apply(x.to(W.dtype), *_padded(W, V, a.to(W.dtype)), kind)


class _HiddenDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, V, a, kind):
        from plausible.families.autoregressive._kernels import nade_forward

        x, W, V, a = (t.detach().contiguous() for t in (x, W, V, a))
        a = a.clone()
        out = torch.empty_like(x)
        arrays, how = [t.numpy() for t in (x, W, V, a, out)], (KINDS[kind], W.dtype == torch.float32)
        compiled.share(len(x), FEWEST, lambda part, first, last: nade_forward(*arrays, first, last, *how))
        ctx.kind = kind
        ctx.save_for_backward(x, W, V, a)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        from plausible.families.autoregressive._kernels import nade_backward

        x, W, V, a = ctx.saved_tensors
        n_parts = compiled.parts(len(x), FEWEST)
        dW, dV = (torch.zeros(n_parts, *W.shape, dtype=W.dtype) for _ in range(2))
        da, a, g = torch.zeros_like(a), a.clone(), g.to(W.dtype).contiguous()
        x_, W_, V_, a_, g_, dW_, dV_, da_ = (t.numpy() for t in (x, W, V, a, g, dW, dV, da))
        how = KINDS[ctx.kind], W.dtype == torch.float32
        compiled.share(
            len(x),
            FEWEST,
            lambda part, first, last: nade_backward(x_, W_, V_, a_, g_, dW_[part], dV_[part], da_, first, last, *how),
        )
        return None, dW.sum(0), dV.sum(0), da, None


def sample_bits(
    u: torch.Tensor,
    known: torch.Tensor | None,
    off: torch.Tensor,
    W: torch.Tensor,
    V: torch.Tensor,
    b: torch.Tensor,
    a: torch.Tensor,
    kind: str,
) -> torch.Tensor:
    """Draw bits z (n, D) from uniforms u (n, D): z_d = [u_d < sigmoid(b_d + out_d)], x = z - off; b is (n, D)."""
    from plausible.families.autoregressive._kernels import nade_sample

    z, (W, V, a) = _started(u, known), _padded(W, V, a.clone())
    arrays = [t.detach().contiguous().numpy() for t in (z, u.logit(), off.to(u), W, V, b, a)]
    how = KINDS[kind], W.dtype == torch.float32
    compiled.share(len(u), FEWEST, lambda part, first, last: nade_sample(*arrays, first, last, *how))
    return z


def sample_masked(
    u: torch.Tensor,
    known: torch.Tensor | None,
    order: Sequence[int],
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    direct: torch.Tensor | None = None,
    degrees: Sequence[Sequence[int]] = (),
    kind: str = "relu",
) -> torch.Tensor:
    """Draw bits of a masked net in this order of the dimensions, in the same way.

    Layers have weights (units, inputs), of which those that the masks rule out are not looked at, and biases (n,
    units); hidden units have ascending degrees. The weights `direct` (D, D) lead from the bits to their logits.
    """
    from plausible.families.autoregressive._kernels import masked_sample

    weights, biases, D = list(weights), list(biases), u.shape[1]
    direct = weights[0].new_empty(0, 0) if direct is None else direct
    moved = list(order) != list(range(D))
    if moved:
        weights[0] = weights[0][:, order]
        weights[-1], biases[-1] = weights[-1][order], biases[-1][:, order]
        direct = direct[order][:, order] if len(direct) else direct
        u, known = u[:, order], None if known is None else known[:, order]
    z = _started(u, known)
    flat, bias = torch.cat([w.flatten() for w in weights]), torch.cat(biases, 1)
    widths = np.array([w.shape[1] for w in weights])
    upto = np.array([np.searchsorted(layer, np.arange(D + 1)) for layer in degrees], np.int64).reshape(-1, D + 1)
    z_, level, flat, direct, bias = (t.detach().contiguous().numpy() for t in (z, u.logit(), flat, direct, bias))
    net = flat, widths, direct, bias, upto
    compiled.share(len(u), FEWEST, lambda part, first, last: masked_sample(z_, level, *net, first, last, UNITS[kind]))
    return z[:, np.argsort(order)] if moved else z


def _started(u: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    """What is known of the bits (n, D), NaN elsewhere."""
    return torch.full_like(u, torch.nan) if known is None else known.to(u).clone()


def _padded(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Give (rows, H) columns of zeros up to a multiple of `LANES`: hidden units that lead nowhere."""
    return [F.pad(t, (0, -t.shape[1] % LANES)) for t in tensors]
