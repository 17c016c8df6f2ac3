r"""The Markov chain: each value depends on the one before it.

    p(x) = p_1(x_1) prod_{d>1} A_d(x_{d-1}, x_d),    A(i, j) = (n(i, j) + a q(j)) / (n(i) + a)

n(i, j) counts how often j followed i, q(j) the (smoothed) share of j among all values, and the a pseudo-steps are those
of the best leave-one-out likelihood. In a table every pair of neighbouring columns has its own A_d; text, and tables
whose columns have the same levels with `stationary=True`, share one. Missing values of an example are summed over
exactly, as the chain over the levels is its own hidden chain (`_chain`). For longer contexts see `context_table`.

References: Markov, An example of statistical investigation of the text Eugene Onegin, 1913. Bishop, Pattern Recognition
and Machine Learning, 2006, section 13.1.
"""

from __future__ import annotations

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct._chain import Chain
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Space

SMOOTHING = tuple(4.0**k for k in range(-4, 6))  # pseudo-steps a to choose from
AT_ONCE = 1 << 22  # numbers of (n, D, K) held at the same time


class _Markov(Module):
    """Legend: n examples, D positions, K the most levels, B tables of transitions: D - 1, or 1 where they share it."""

    def __init__(self, space: Space, stationary: bool, anywhere: bool, end: int | None):
        super().__init__()
        self.dims, self.stationary, self.anywhere, self.end = space.dims, stationary, anywhere, end
        levels = [c.n_levels for c in space.columns]
        self.levels, self.tables = max(levels), 1 if stationary else max(space.dims - 1, 1)
        free = (
            [levels[0] * (levels[0] - 1)]
            if stationary
            else [i * (j - 1) for i, j in zip(levels[:-1], levels[1:], strict=True)]
        )
        self.free = levels[0] - 1 + sum(free)
        into = torch.tensor(levels[:1] if stationary or space.dims == 1 else levels[1:])
        k = torch.arange(self.levels)
        self.register_buffer("possible", k < into[:, None], persistent=False)  # (B, K)
        self.register_buffer("possible_first", k < levels[0], persistent=False)
        self.register_buffer("first", self.possible_first.double() / levels[0])
        even = self.possible.double() / into[:, None]
        self.register_buffer("transition", even[:, None].repeat(1, self.levels, 1))  # (B, K, K)
        self.register_buffer("smoothing", torch.zeros(2, dtype=torch.float64))
        self._counts: list[torch.Tensor] | None = None

    @property
    def n_parameters(self) -> int:
        return self.free

    @property
    def chain(self) -> Chain:
        """The chain of the values."""
        return Chain(self.first, self.transition[0] if self.stationary else self.transition)

    # ----------------------------------------------------------------------------------------------------- counting

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Count the first values and the steps; counting in two halves is counting at once."""
        z = z.reshape(len(z), -1)
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight.double()
        k = self.levels
        first, steps = self.first.new_zeros(k), self.first.new_zeros(self.tables * k * k)
        for d in range(self.dims):
            known = ~z[:, d].isnan()
            x, v = z[known, d].long(), w[known]
            if d == 0 or self.anywhere:  # a window begins anywhere: its first value is as good as any
                first.index_add_(0, x, v)
            if d:
                both = known & ~z[:, d - 1].isnan()
                table = 0 if self.stationary else d - 1
                steps.index_add_(0, (table * k + z[both, d - 1].long()) * k + z[both, d].long(), w[both])
        new = [first, steps.reshape(self.tables, k, k)]
        self._counts = new if self._counts is None else [a + b for a, b in zip(self._counts, new, strict=True)]
        return torch.zeros((), dtype=torch.float64)

    def update(self) -> None:
        """Smooth the counts as is best for each value left out."""
        first, steps = self._counts
        even = self.possible_first.double() / self.possible_first.sum()
        a = max(SMOOTHING, key=lambda a: _leave_one_out(first, even, a))
        self.first.copy_((first + a * even) / (first.sum() + a))
        into = steps.sum(1) + 0.5 * self.possible
        q = (into / into.sum(1, keepdim=True))[:, None]
        b = max(SMOOTHING, key=lambda b: _leave_one_out(steps, q, b))
        self.transition.copy_((steps + b * q) / (steps.sum(2, keepdim=True) + b))
        self.smoothing.copy_(torch.tensor([a, b]))

    # ----------------------------------------------------------------------------------------------------- evaluate

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1)
        gone = z.isnan()
        log_p = self._log_prob_from_the_start(z, gone)
        # What is missing before something known has to be summed over; what follows the last known value, not.
        holes = (gone[:, :-1] & ~gone[:, 1:]).any(1).nonzero()[:, 0]
        for rows in holes.split(self._rows()):
            log_p[rows] = self.chain.filter(self._log_known(z[rows]))[0]
        return log_p

    def _log_prob_from_the_start(self, z: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
        x = torch.nan_to_num(z).long()
        log_p = torch.where(gone[:, 0], 0.0, self.first[x[:, 0]].log())
        if self.dims > 1:
            table = torch.zeros(self.dims - 1, dtype=torch.long, device=z.device)
            table = table if self.stationary else torch.arange(self.dims - 1, device=z.device)
            steps = self.transition[table, x[:, :-1], x[:, 1:]].log()
            log_p = log_p + torch.where(gone[:, 1:], 0.0, steps).sum(1)
        return log_p

    def _rows(self) -> int:
        return max(AT_ONCE // (self.dims * self.levels), 1)

    def _log_known(self, z: torch.Tensor) -> torch.Tensor:
        """0 for the levels that a value may have, -inf for the others: (n, D) -> (n, D, K)."""
        is_it = z[:, :, None] == torch.arange(self.levels, device=z.device)
        return torch.where(is_it | z.isnan()[:, :, None], 0.0, -torch.inf).double()

    # ------------------------------------------------------------------------------------------------------- sample

    def sample(self, n, c=None, *, rng):
        z = self.chain.sample(uniform(rng, (n, self.dims), self.first)).double()
        if self.end is None:
            return z
        ended = z == self.end
        return torch.where(ended.cumsum(1) - ended.long() > 0, torch.nan, z)

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z, from the last value back."""
        return self._filled(z, lambda log_b: self.chain.draw(
            self.chain.filter(log_b)[1], uniform(rng, tuple(log_b.shape[:2]), self.first)
        ))  # fmt: skip

    def likely_given(self, z, c=None):
        """Put the jointly most likely values in the place of the NaN of z (Viterbi)."""
        return self._filled(z, lambda log_b: self.chain.likely(log_b)[0])

    def _filled(self, z: torch.Tensor, path) -> torch.Tensor:
        flat = z.reshape(len(z), -1).double()
        drawn = [path(self._log_known(flat[rows])) for rows in torch.arange(len(flat)).split(self._rows())]
        return torch.where(flat.isnan(), torch.cat(drawn).double(), flat).reshape(z.shape) if drawn else z


def _leave_one_out(counts: torch.Tensor, q: torch.Tensor, a: float) -> float:
    """Log likelihood of each count when one of it is left out, under (n + a q) / (sum n + a) along the last axis."""
    others, total = (counts - 1).clamp_min(0), (counts.sum(-1, keepdim=True) - 1).clamp_min(0)
    log_p = ((others + a * q) / (total + a)).log()
    return float(torch.where(counts > 0, counts * log_p, 0.0).sum())


@estimator
class Markov(Generative):
    """Markov chain over values in order: text, or columns of levels; by counting; exact.

    References: Bishop, Pattern Recognition and Machine Learning, 2006, section 13.1.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> bits = np.random.default_rng(0).integers(0, 2, (2000, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.Markov().fit(bits)
        >>> round(model.score(bits), 2)  # three copies of one fair coin: -log 2
        -0.69
        >>> model.log_prob([[1, np.nan, 1]]).round(1)  # the missing cell is summed over
        array([-0.7])
    """

    stationary: bool | str = option(
        "auto", "one table of steps for all positions; 'auto' for text only", choices=("auto",)
    )

    traits = Traits(
        density="exact",
        events=frozenset({"table", "text"}),
        kinds=frozenset({"binary", "categorical", "ordinal"}),
        marginals=True,
        given="exact",
        streams=True,
    )

    def _transforms(self, space: Space):
        return []

    def _build(self, space: Space, context_space: Space) -> Module:
        text = space.type == "text"
        stationary = text if self.stationary == "auto" else bool(self.stationary)
        if stationary and any(c.levels != space.columns[0].levels for c in space.columns):
            raise OptionError(
                "Markov(stationary=True) has one table of steps for all columns and needs them to have the same "
                "levels; use stationary=False"
            )
        whole = text and space.end
        return _Markov(space, stationary, text and not space.end, space.columns[0].n_levels - 1 if whole else None)
