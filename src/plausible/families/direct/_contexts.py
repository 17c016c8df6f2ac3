r"""Counts of symbols after contexts of growing length, in one sorted array, and how they are smoothed.

A position is described by digits (g, a_1, ..., a_k, x): its group g, its context from the nearest value to the
farthest, and its symbol x. A context of length m is a node of a trie, whose parent is the context of length m - 1. All
nodes of all lengths are numbered through, the G groups first and shorter contexts before longer ones; the key
parent * B + a_m of a node (B digits) then ascends with its number, so that one binary search a level finds any of them,
and node * K + x finds any count.

With n_m the counts of level m and h_i the hat functions about i = 1, 2, 3 (the last one flat beyond),

    P_m(x | c) = [n_m(c, x) - D(n_m(c, x)) + (s_c + sum_y D(n_m(c, y))) P_{m-1}(x | c')] / (n_m(c) + s_c),
    D(n) = sum_i D_mi h_i(n),   0 < D_mi < i,   s_c = t_m + e_m * (the number of symbols seen after c),   P_{-1} = 1 / K

and n_{m-1}(c', x) the sum over the longer contexts c of n_m(c, x) (absolute discounting) or of min(n_m(c, x), 1), the
number of contexts in which x was seen (Kneser-Ney). The parameters D, t and e of each level are those of the best
leave-one-out likelihood: the probability of each position under the counts without it. With D = t = 0 and e = 1 it is
PPM-C.

References: Kneser and Ney, Improved backing-off for m-gram language modeling, 1995. Chen and Goodman, An empirical
study of smoothing techniques for language modeling, 1999 (discounts by count). Teh, A hierarchical Bayesian language
model based on Pitman-Yor processes, 2006 (the strength t). Moffat, Implementing the PPM data compression scheme, 1990.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

FITS = 1 << 62  # what a key may reach
DENSE = 1 << 24  # and up to where a table of all keys is faster than sorting them
MOST_ROWS = 50_000  # contexts with symbols that the parameters of the smoothing are fitted on
KNOTS = 3  # counts with a discount of their own; higher ones share the last
PARAMETERS = KNOTS + 2  # of a level: D_1, D_2, D_3, t, e
PPM = (0.0, 0.0, 0.0, 0.0, 1.0)


def fold(columns: Iterable[torch.Tensor], sizes: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Make one key of several digits: equal keys where all digits are equal, below the returned span."""
    key, span = None, 1
    for column, size in zip(columns, sizes, strict=True):
        if key is None:
            key = column.long()
        else:
            if span * size >= FITS:  # number the keys through and go on
                key, span = distinct(key, span)[1], key.numel()
            key = key * size + column
        span *= size
    return key, span


def distinct(key: torch.Tensor, span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct keys, ascending, and the place of each key among them: ``torch.unique``, mostly faster."""
    if span > DENSE or span > 4 * key.numel() + 1024:
        return torch.unique(key, return_inverse=True)
    seen = torch.zeros(span, dtype=torch.bool, device=key.device)
    seen[key] = True
    rank = seen.cumsum(0) - 1
    return seen.nonzero()[:, 0], rank[key]


def tally(columns: Iterable[torch.Tensor], sizes: Sequence[int], weight: torch.Tensor):
    """Add up the weights of equal digits, in columns (n,): return the place of one of each (U,) and their counts."""
    keys, which = distinct(*fold(columns, sizes))
    one = torch.empty(len(keys), dtype=torch.long, device=which.device)
    one[which] = torch.arange(len(which), device=which.device)  # any of those that are equal
    return one, add_at(which, weight, len(keys))


def find(ascending: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the place of each key among the ascending ones, and whether it is there."""
    if not len(ascending):
        return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
    place = torch.searchsorted(ascending, keys).clamp_max(len(ascending) - 1)
    return place, ascending[place] == keys


def add_at(which: torch.Tensor, values: torch.Tensor, n: int) -> torch.Tensor:
    """Sums of the values (U, ...) with the same index: (n, ...)."""
    return torch.zeros(n, *values.shape[1:], dtype=values.dtype, device=values.device).index_add_(0, which, values)


def hats(counts: torch.Tensor) -> torch.Tensor:
    """h_i of counts (...) -> (..., 3); whole counts of 1, 2, and 3 or more each have one that is 1."""
    return (1 - (counts.clamp(0, KNOTS)[..., None] - _knots(counts)).abs()).clamp_min(0)


@dataclass
class Trie:
    """The counts of all levels, from those of the longest contexts.

    Args:
        rows: distinct digits (g, a_1, ..., a_k, x) with shape (U, k + 2); a digit `stop` ends the context before it.
        counts: how often each was seen, (U,).
        groups, base, levels: the numbers G of groups, B of digits and K of symbols.
        stop: the digit that ends a context, or None.
        continuation: whether a shorter context counts those that continue it (Kneser-Ney).
    """

    rows: torch.Tensor
    counts: torch.Tensor
    groups: int
    base: int
    levels: int
    stop: int | None
    continuation: bool

    def __post_init__(self):
        symbol = self.rows[:, -1].long()
        self.paths, nodes, self.starts = self._number()
        self.nodes = torch.cat(nodes)
        self.pair_of, pairs, ones = [], [], []  # for each level, from the root
        for path in self.paths:
            alive = (path >= 0).nonzero()[:, 0]
            keys, which = torch.unique(path[alive] * self.levels + symbol[alive], return_inverse=True)
            self.pair_of.append(torch.full_like(path, -1).index_copy_(0, alive, which))
            ones.append(torch.empty_like(keys).index_copy_(0, which, alive))
            pairs.append(keys)
        self.pairs, self.sizes = torch.cat(pairs), [len(keys) for keys in pairs]
        self.seen = self._count(ones)
        self.c = torch.cat(self.seen)
        node = self.pairs // self.levels
        n_nodes = self.groups + len(self.nodes)
        self.total = add_at(node, self.c, n_nodes)  # n(c)
        self.spread = add_at(node, hats(self.c), n_nodes)  # sum_y h_i(n(c, y))

    def _number(self) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
        """Return the node of each row at each level, -1 where its context has ended; the keys; where levels end."""
        path = self.rows[:, 0].long()
        paths, nodes, ends = [path], [], [0, self.groups]
        for digit in self.rows[:, 1:-1].T:
            alive = path >= 0
            if self.stop is not None:
                alive &= digit != self.stop
            keys, which = torch.unique(path[alive] * self.base + digit[alive], return_inverse=True)
            path = torch.full_like(path, -1)
            path[alive] = ends[-1] + which
            paths.append(path)
            nodes.append(keys)
            ends.append(ends[-1] + len(keys))
        return paths, nodes or [path[:0]], ends

    def _count(self, ones: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return n_m of the pairs of each level."""
        seen: list[torch.Tensor] = [self.counts] * len(self.paths)
        longer = torch.full_like(self.paths[0], -1)
        for m in reversed(range(len(self.paths))):
            ends_here = (self.paths[m] >= 0) & (longer < 0)
            c = add_at(self.pair_of[m][ends_here], self.counts[ends_here], self.sizes[m])
            if m + 1 < len(self.paths):
                c += add_at(self.pair_of[m][ones[m + 1]], self._passed_on(seen[m + 1]), self.sizes[m])
            seen[m], longer = c, self.paths[m]
        return seen

    def _passed_on(self, c: torch.Tensor) -> torch.Tensor:
        return c.clamp_max(1) if self.continuation else c

    # ------------------------------------------------------------------------------------------------ leave one out

    def without_one(self, rows: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """What each level knows of some rows when one position like it is taken out of the counts.

        Returns:
            For each level: n(c, x) (R,), n(c) (R,), h_i(n(c, x)) (R, 3), and their sum over x (R, 3).
        """
        out = []
        gone = torch.zeros(len(rows), dtype=torch.float64, device=self.c.device)
        offset = sum(self.sizes)
        for m in reversed(range(len(self.paths))):
            offset -= self.sizes[m]
            node, pair = self.paths[m][rows], self.pair_of[m][rows]
            alive = node >= 0
            c = torch.where(alive, self.c[offset + pair.clamp_min(0)], 0.0)
            begins = alive if m + 1 == len(self.paths) else alive & (self.paths[m + 1][rows] < 0)
            gone = torch.where(begins, self.counts[rows].clamp_max(1), gone)
            left = torch.where(alive, (c - gone).clamp_min(0), 0.0)
            total = torch.where(alive, self.total[node.clamp_min(0)] - c + left, 0.0)
            own = hats(left)
            spread = (self.spread[node.clamp_min(0)] - hats(c) + own) * alive[:, None]
            out.append((left, torch.where(total > 1e-9, total, 0.0), own, spread.clamp_min(0)))
            gone = torch.where(alive, self._passed_on(c) - self._passed_on(left), gone)
        return out[::-1]

    @property
    def order(self) -> int:
        """The length of the longest contexts."""
        return len(self.paths) - 1

    def fit(self, base: torch.Tensor, start: torch.Tensor | None = None, iterations: int = 40) -> torch.Tensor:
        """Return the parameters (k + 1, 5) of the best leave-one-out likelihood.

        Args:
            base: P_{-1} of each group, (G,).
            start: those of shorter contexts, to start from.
            iterations: of L-BFGS, at most.
        """
        rows, weight = self._sample()
        known = self.without_one(rows)
        first = base[self.rows[rows, 0].long()]
        raw = torch.zeros(len(known), PARAMETERS, dtype=torch.float64, device=first.device)
        raw[:, KNOTS:] = -3.0
        if start is not None:
            raw[: len(start)] = _unbounded(start)
        raw.requires_grad_()
        with torch.no_grad():  # to begin at a thousand, so that tolerances mean the same for all data
            scale = -1000 / (weight @ _mixed(first, known, _bounded(raw)).log())
        best = torch.optim.LBFGS([raw], max_iter=iterations, line_search_fn="strong_wolfe", tolerance_change=1e-4)

        def closure() -> torch.Tensor:
            best.zero_grad()
            loss = -scale * (weight @ _mixed(first, known, _bounded(raw)).log())
            loss.backward()
            return loss

        with torch.enable_grad():
            best.step(closure)
        return _bounded(raw.detach())

    def leave_one_out(self, parameters: torch.Tensor, base: torch.Tensor) -> float:
        """Return the mean log probability of a position under the counts without it."""
        total = 0.0
        for rows in torch.arange(len(self.rows), device=base.device).split(MOST_ROWS):
            p = _mixed(base[self.rows[rows, 0].long()], self.without_one(rows), parameters)
            total += float(self.counts[rows] @ p.log())
        return total / float(self.counts.sum())

    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows, or the most frequent ones and some that stand for the others; and their weights."""
        held = (self.counts > 0).nonzero()[:, 0]
        if len(held) <= MOST_ROWS:
            return held, self.counts[held]
        order = held[self.counts[held].argsort(descending=True, stable=True)]
        often, rest = order[: MOST_ROWS // 2], order[MOST_ROWS // 2 :]
        step = len(rest) / (MOST_ROWS // 2)  # of a systematic sample: the rest is sorted by count
        some = rest[(torch.arange(MOST_ROWS // 2, device=rest.device) * step).long()]
        scale = self.counts[rest].sum() / self.counts[some].sum()
        return torch.cat([often, some]), torch.cat([self.counts[often], self.counts[some] * scale])

    def ratios(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return share (pairs,) and back (nodes,) with P_m(x | c) = share(c, x) + back(c) P_{m-1}(x | c')."""
        node = self.pairs // self.levels
        nodes = torch.arange(len(self.total), device=node.device)
        ends = torch.tensor(self.starts[1:], dtype=torch.long, device=node.device)
        of_node = parameters[torch.bucketize(nodes, ends, right=True)]
        strength = _strength(of_node, self.spread)
        total = self.total + strength
        escape = strength + (self.spread * of_node[:, :KNOTS]).sum(1)
        discount = (hats(self.c) * of_node[node, :KNOTS]).sum(1)
        return (self.c - discount) / total[node], torch.where(self.total > 0, escape / total.clamp_min(1e-300), 1.0)


def _strength(parameters: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """t + e * types (...), from parameters (..., 5) and sums of hats (..., 3), which add up to the number of types."""
    types = spread[..., 0] + spread[..., 1] + spread[..., 2]  # ten times faster than a sum over three
    return parameters[..., KNOTS] + parameters[..., KNOTS + 1] * types


def _mixed(p: torch.Tensor, known: list[tuple[torch.Tensor, ...]], parameters: torch.Tensor) -> torch.Tensor:
    """P_k from P_{-1} (R,), what each level knows (see `without_one`) and its parameters."""
    for (c, total, own, spread), row in zip(known, parameters, strict=True):
        strength = _strength(row, spread)
        new = (c - own @ row[:KNOTS] + (strength + spread @ row[:KNOTS]) * p) / (total + strength)
        p = torch.where(total > 0, new, p)
    return p


def _bounded(raw: torch.Tensor) -> torch.Tensor:
    """Numbers (..., 5) on the whole line as discounts 0 < D_i < i, and t and e > 0."""
    discounts = _knots(raw) * (1e-4 + (1 - 2e-4) * raw[..., :KNOTS].sigmoid())
    return torch.cat([discounts, raw[..., KNOTS:].clamp(-20, 20).exp()], -1)


def _unbounded(parameters: torch.Tensor) -> torch.Tensor:
    """Undo `_bounded`, but stay where there is a slope."""
    share = (parameters[..., :KNOTS] / _knots(parameters) - 1e-4) / (1 - 2e-4)
    return torch.cat([share.logit(1e-3), parameters[..., KNOTS:].log().clamp_min(-8)], -1)


def _knots(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(1, KNOTS + 1, dtype=like.dtype, device=like.device)
