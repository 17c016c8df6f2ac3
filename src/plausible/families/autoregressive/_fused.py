"""The loops of `_kernels` as functions of tensors, with gradients; where numba is absent nothing here is called.

    out_d = V_d . h_d,    h_d = act(a + sum_{i<d} x_i W_i)

The gradients are exact: they are the same sums as automatic differentiation takes, in another order.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable

KINDS = {"sigmoid": 0, "tanh": 1, "relu": 2}
FEWEST = 16  # examples a thread should have


@functools.cache
def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def usable(like: torch.Tensor) -> bool:
    """Whether the compiled loops take tensors such as this."""
    return like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64) and available()


def hidden_dots(x: torch.Tensor, W: torch.Tensor, V: torch.Tensor, a: torch.Tensor, kind: str) -> torch.Tensor:
    """Return out (n, D) of features x (n, D), W and V (D, H) and sums a (n, H) before any dimension."""
    return _HiddenDots.apply(x.to(W.dtype), W, V, a.to(W.dtype), kind)


class _HiddenDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, V, a, kind):
        from plausible.families.autoregressive._kernels import nade_forward

        x, W, V, a = (t.detach().contiguous() for t in (x, W, V, a))
        a = a.clone()
        out = torch.empty_like(x)
        arrays, how = [t.numpy() for t in (x, W, V, a, out)], (KINDS[kind], W.dtype == torch.float32)
        _share(len(x), lambda part, first, last: nade_forward(*arrays, first, last, *how))
        ctx.kind = kind
        ctx.save_for_backward(x, W, V, a)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        from plausible.families.autoregressive._kernels import nade_backward

        x, W, V, a = ctx.saved_tensors
        n_parts = _parts(len(x))
        dW, dV = (torch.zeros(n_parts, *W.shape, dtype=W.dtype) for _ in range(2))
        da, a, g = torch.zeros_like(a), a.clone(), g.to(W.dtype).contiguous()
        x_, W_, V_, a_, g_, dW_, dV_, da_ = (t.numpy() for t in (x, W, V, a, g, dW, dV, da))
        how = KINDS[ctx.kind], W.dtype == torch.float32
        _share(
            len(x),
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

    z = torch.full_like(u, torch.nan) if known is None else known.to(u).clone()
    arrays = [t.detach().contiguous().numpy() for t in (z, u.logit(), off.to(u), W, V, b, a.clone())]
    how = KINDS[kind], W.dtype == torch.float32
    _share(len(u), lambda part, first, last: nade_sample(*arrays, first, last, *how))
    return z


def sample_linear(
    u: torch.Tensor, known: torch.Tensor | None, weight: torch.Tensor, params: torch.Tensor
) -> torch.Tensor:
    """Draw bits from logits params (n, D) + sum_{i<d} weight_di (2 z_i - 1) in the same way."""
    from plausible.families.autoregressive._kernels import linear_sample

    z = torch.full_like(u, torch.nan) if known is None else known.to(u).clone()
    arrays = [t.detach().contiguous().numpy() for t in (z, u.logit(), weight.T, params.clone())]
    _share(len(u), lambda part, first, last: linear_sample(*arrays, first, last))
    return z


def _parts(n: int) -> int:
    return max(1, min(torch.get_num_threads(), n // FEWEST))


def _share(n: int, work: Callable[[int, int, int], None]) -> None:
    """Do work(part, first, last) for all n examples, on as many threads as torch uses; the parts do not depend on time.

    Threads of our own, as numba's would stay for good and are not all safe beside another thread's.
    """
    n_parts = _parts(n)
    edges = [n * part // n_parts for part in range(n_parts + 1)]
    errors: list[BaseException] = []

    def run(part: int) -> None:
        try:
            work(part, edges[part], edges[part + 1])
        except BaseException as error:  # a thread's error is shown and lost otherwise
            errors.append(error)

    threads = [threading.Thread(target=run, args=(part,)) for part in range(1, n_parts)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
