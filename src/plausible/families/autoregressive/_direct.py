r"""Direct connections: what a linear prediction from the last steps says of the next one.

    m_t = a_0 + sum_i a_i x_{t-i},    e_t = x_t - m_t,    s_t = w_0 + sum_i w_i |e_{t-i}|,    i = 1 .. L

The net beside them is shown e / s, x / s and log s, and what its head says is of (x_t - m_t) / s_t: loud and soft are
one to it, and it starts from what a linear predictor knows. a and w are by least squares, steps weighted by 1 / s^2 and
w not negative, from the examples that are looked at before training; then they are kept as they are.

References: Schafer and Rabiner, Digital representations of speech signals, 1975 (linear prediction). Engle,
Autoregressive conditional heteroscedasticity, 1982; Schwert, Why does stock market volatility change over time?, 1989
(the same with absolute values).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

SHOWN = 3  # numbers that a net is shown of each step
LOOKED = 500_000  # steps that the least squares are of
ROUNDS = 4  # of least squares, each weighted by the scales of the one before
RIDGE = 1e-6  # of the mean square, added to it: it keeps lags that say the same apart
LEAST_SPREAD = 0.1  # of log s


@dataclass
class Before:
    """What is known before a step t of n examples: L lags, the latest last, and what follows from them."""

    values: torch.Tensor  # x (n, L)
    errors: torch.Tensor  # |e| (n, L)
    mean: torch.Tensor  # m_t (n,)
    scale: torch.Tensor  # s_t (n,)
    shown: torch.Tensor  # (n, SHOWN)


class Direct(nn.Module):
    """Legend: n examples, T steps of one number, L lags, of which the latest is the last.

    Args:
        lags: L.
        floor: the smallest scale.
    """

    def __init__(self, lags: int, floor: float):
        super().__init__()
        self.lags, self.floor = lags, floor
        self.register_buffer("constant", torch.zeros(()))  # a_0
        self.register_buffer("weights", torch.zeros(lags))  # a
        self.register_buffer("least", torch.ones(()))  # w_0
        self.register_buffer("of_errors", torch.zeros(lags))  # w
        self.register_buffer("usual", torch.ones(()))  # mean |e|, which stands for those before the first step
        self.register_buffer("level", torch.zeros(()))  # mean and deviation of log s
        self.register_buffer("spread", torch.ones(()))

    # ------------------------------------------------------------------------------------------------- all at once

    def foresee(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return m and s (n, T), and what a net may be shown when asked for each step (n, T, SHOWN), of x (n, T).

        A missing value counts as zero, and as foreseen.
        """
        known, x = ~x.isnan(), torch.nan_to_num(x)
        with torch.autocast(x.device.type, enabled=False):  # half precision has eight bits, sound has sixteen
            mean = self._lagged(x, self.weights, torch.zeros_like(self.usual)) + self.constant
            error = (x - mean) * known
            scale = self._lagged(error.abs(), self.of_errors, self.usual) + self.least
        error, last = (F.pad(v[:, :-1], (1, 0)) for v in (error / scale, x))
        return mean, scale, self._shown(error, last, scale)

    def _lagged(self, x: torch.Tensor, weights: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Weigh the L values before each step: (n, T) -> (n, T), as if all had been `first` before there were any."""
        return self._windows(x, first) @ weights

    def _windows(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """(n, T) -> (n, T, L)."""
        return torch.cat([first.expand(len(x), self.lags), x[:, :-1]], 1).unfold(1, self.lags, 1)

    def _shown(self, error: torch.Tensor, last: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """What is told of the error and the value of the step before, and of the scale of this one: (..., SHOWN)."""
        return torch.stack([error.asinh(), (last / scale).asinh(), (scale.log() - self.level) / self.spread], -1)

    # ------------------------------------------------------------------------------------------------ step by step

    def start(self, n: int) -> Before:
        """Return what is known before the first step of n examples."""
        nothing = self.weights.new_zeros(n, self.lags)
        return self._next(nothing, nothing + self.usual, nothing[:, 0], nothing[:, 0])

    def step(self, before: Before, x: torch.Tensor) -> Before:
        """Take the value (n,) of the step that was foreseen."""
        x = x.to(before.values)
        error = torch.nan_to_num(x - before.mean)
        x = torch.nan_to_num(x)
        values = torch.cat([before.values[:, 1:], x[:, None]], 1)
        errors = torch.cat([before.errors[:, 1:], error.abs()[:, None]], 1)
        return self._next(values, errors, error / before.scale, x)

    def _next(self, values: torch.Tensor, errors: torch.Tensor, error: torch.Tensor, last: torch.Tensor) -> Before:
        mean, scale = values @ self.weights + self.constant, errors @ self.of_errors + self.least
        return Before(values, errors, mean, scale, self._shown(error, last, scale))

    # --------------------------------------------------------------------------------------------------- learning

    @torch.no_grad()
    def look(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Fit a and w to some of the examples x (n, T), which count by their weight (n,)."""
        from scipy.optimize import nnls

        weight = torch.ones_like(x[:, 0]) if weight is None else weight.to(x)
        x, weight = x[weight > 0], weight[weight > 0]
        some = slice(None, None, max(1, -(-x.numel() // LOOKED)))
        x, weight = x[some, :LOOKED].double(), weight[some].double()
        known = ~x.isnan()
        if known.sum() <= 2 * self.lags:
            return  # too few to tell: nothing is foreseen
        found = Direct(self.lags, self.floor).to(x)
        lagged = found._windows(torch.nan_to_num(x), found.constant)[known]  # (m, L)
        share = (weight / weight.mean())[:, None].expand_as(x)[known]
        ones, scale = torch.ones_like(lagged[:, :1]), x.new_ones(len(lagged))
        for _ in range(ROUNDS):
            counts = share / scale.square()
            root, aim = _triangle(torch.cat([lagged, ones], 1), x[known], counts)
            solved = torch.linalg.solve_triangular(root, aim[:, None], upper=True)[:, 0]
            found.weights, found.constant = solved[:-1], solved[-1]
            error = torch.nan_to_num(x - found.foresee(x)[0]).abs()
            found.usual = (error[known] * share).sum() / share.sum()
            root, aim = _triangle(torch.cat([found._windows(error, found.usual)[known], ones], 1), error[known], counts)
            solved = torch.from_numpy(nnls(root.cpu().numpy(), aim.cpu().numpy())[0]).to(x)
            found.of_errors, found.least = solved[:-1], solved[-1].clamp_min(self.floor)
            scale = found.foresee(x)[1][known]
        found.level, found.spread = scale.log().mean(), scale.log().std().clamp_min(LEAST_SPREAD)
        for name, learned in self.named_buffers():
            learned.copy_(getattr(found, name))


def _triangle(x: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return R (f, f) and r (f,): |R b - r|^2 is sum counts (x b - y)^2 less what b does not change; x (m, f)."""
    weighted = x * counts[:, None]
    gram = x.T @ weighted
    gram += torch.diag(gram.diagonal() * RIDGE + torch.finfo(x.dtype).tiny)
    root = torch.linalg.cholesky(gram)
    return root.T, torch.linalg.solve_triangular(root, weighted.T @ y[:, None], upper=False)[:, 0]
