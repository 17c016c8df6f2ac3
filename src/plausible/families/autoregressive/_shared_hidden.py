"""Conditionals of nets whose hidden layer grows by a term with every dimension: NADE and its orderless kin.

    out_d = V_d top(c + sum_{i before d} W_i f(x_i))

The sums of all dimensions would fill n D H numbers; they are taken in blocks of dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

AT_ONCE = 4_000_000  # hidden units that are held at a time where gradients are taken
IN_CACHE = 50_000  # and where none are: ten times faster than what has to come from memory


def at_once() -> int:
    """The number of hidden units to hold at a time."""
    return AT_ONCE if torch.is_grad_enabled() else IN_CACHE


def by_blocks(
    x: torch.Tensor,
    W: torch.Tensor,
    V: torch.Tensor,
    sums: torch.Tensor,
    source: torch.Tensor,
    owner: torch.Tensor,
    order: list[int],
    top: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return out (n, P).

    Args:
        x: features (n, F); W (F, H) what each adds; V (P, H') what each parameter takes.
        sums: (n, H), before any dimension is known.
        source, owner: the dimension of each feature (F,) and of each parameter (P,).
        order: the dimensions in the order in which they become known.
        top: from sums (B, n, H) to the units (B, n, H') that V takes.
    """
    n_params, dims = len(V), len(order)
    of_features, of_params = of_dimension(source, dims)[order], of_dimension(owner, dims)[order]
    x = F.pad(x, (0, 1))[:, of_features]  # (n, D, F_d): what is padded is zero
    W, V = F.pad(W, (0, 0, 0, 1))[of_features], F.pad(V, (0, 0, 0, 1))[of_params]

    def go_on(sums, x, W, V):
        terms = torch.cat([sums[None], x @ W]).cumsum(0)  # (B + 1, n, H)
        return terms[-1], (top(terms[:-1]) @ V.transpose(1, 2)).transpose(0, 1)

    block = max(1, at_once() // max(sums.numel(), 1))
    out = []
    for k in range(0, dims, block):
        part = x[:, k : k + block].transpose(0, 1), W[k : k + block], V[k : k + block]
        if block < dims and torch.is_grad_enabled():  # its hidden units are computed again on the way back
            sums, dots = checkpoint(go_on, sums, *part, use_reentrant=False, preserve_rng_state=False)
        else:
            sums, dots = go_on(sums, *part)
        out.append(dots)
    # (n, D, P_d) -> (n, P), each where its parameter lies
    place, own = torch.empty(n_params, dtype=torch.long, device=x.device), of_params.flatten() < n_params
    place[of_params.flatten()[own]] = own.nonzero()[:, 0]
    return torch.cat(out, 1).flatten(1)[:, place]


def of_dimension(owner: torch.Tensor, dims: int) -> torch.Tensor:
    """Where the entries of each dimension lie, (D, most): those that are missing point one past the end."""
    n = torch.bincount(owner, minlength=dims)
    rank = torch.arange(int(n.max()), device=owner.device)
    place = (n.cumsum(0) - n)[:, None] + rank
    order = F.pad(owner.argsort(stable=True), (0, 1), value=len(owner))
    return order[torch.where(rank < n[:, None], place, len(owner))]
