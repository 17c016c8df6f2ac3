r"""Context tables: n-grams of text, and their like for images and rows of levels.

    p(x) = prod_d P_k(x_d | c_d),    c_d = (a_1, ..., a_k) the k nearest of the values before x_d, the nearest first

One table of counts serves all positions (of a table of columns: one for each). In text the nearest values are the
characters just before; in an image they are the pixels above and to the left, in order of distance, where what lies
outside of the image counts as zero. A context that was never seen, or rarely, backs off to a shorter one; `_contexts`
has the smoothing and how its parameters are found, by leave-one-out likelihood.

A string begins after a digit of its own and ends with END, so that the mass of all strings is one. A window of a long
text begins anywhere: of its first characters the context is as short as what is known of it.

References: Shannon, A mathematical theory of communication, 1948. Chen and Goodman, An empirical study of smoothing
techniques for language modeling, 1999. Cleary and Witten, Data compression using adaptive coding and partial string
matching, 1984 (PPM).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from plausible.base import Generative, Module, Traits
from plausible.families._stepwise import Stepwise
from plausible.families.direct._contexts import FITS, PARAMETERS, PPM, Trie, distinct, find, fold, tally
from plausible.heads import N_UNIFORMS, Heads
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Space

AT_ONCE = 1 << 21  # positions whose digits are held at the same time
LONGEST, LONGEST_OF_IMAGES = 8, 20  # contexts that 'auto' considers
ORDERS = (0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 20)
WORTHWHILE = 1e-3  # share of the nats that a longer context must save
PATIENCE = 2  # lengths tried in vain, one after the other, before none longer is: what counts may be the value but one


@dataclass
class _State:
    """The values given so far, (D + 2, n) with the digits of outside and of the end below them."""

    values: torch.Tensor
    order: list[int]  # positions in the order they are drawn
    k: int = 0  # positions given so far


class _ContextTable(Stepwise):
    """Legend: n examples, D positions, k the longest context, G groups, K symbols; nodes and pairs as in `_contexts`.

    Args:
        space: the model's space.
        near: (D, k) the places of each position's context; D stands for outside, D + 1 for the end of what is known.
        group: (D,) which table serves each position.
        order: positions in the order in which they are drawn.
        outside: the digit of what is outside: None for one of its own.
        climb: whether to look for the best length of the context, or take all of it.
        smoothing: see `ContextTable`.
        ends: whether the last symbol ends an example.
    """

    variable_buffers = ("nodes", "pairs", "share", "back", "laws")

    def __init__(self, space: Space, near, group, order, outside, climb, smoothing, ends):
        super().__init__()
        self.dims, self._order, self.columns = space.dims, order, space.columns
        self.climb, self.smoothing, self.ends = climb, smoothing, ends
        levels = [c.n_levels for c in space.columns]
        self.levels, self.groups, self.longest = max(levels), max(group) + 1, len(near[0])
        # Where outside is no digit of its own, all contexts are complete.
        self.base = self.levels + (2 if outside is None else 0)
        self.outside = self.levels if outside is None else outside
        self.stop = self.levels + 1 if outside is None else None
        self.sizes = [self.groups, *[self.base] * self.longest, self.levels]
        of_group = [levels[group.index(g)] for g in range(self.groups)]
        self.register_buffer("near", torch.tensor(near, dtype=torch.long).reshape(len(near), -1), persistent=False)
        self.register_buffer("group", torch.tensor(group, dtype=torch.long), persistent=False)
        self.register_buffer("even", 1 / torch.tensor(of_group, dtype=torch.float64), persistent=False)
        self.register_buffer("nodes", torch.zeros(0, dtype=torch.long))
        self.register_buffer("pairs", torch.zeros(0, dtype=torch.long))
        self.register_buffer("share", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("back", torch.ones(self.groups, dtype=torch.float64))
        self.register_buffer("laws", torch.zeros(0, PARAMETERS, dtype=torch.float64))
        self._rows = self._counts = None

    @property
    def n_parameters(self) -> int:
        return len(self.pairs) + self.laws.numel()

    @functools.cached_property
    def heads(self) -> Heads:
        """Every position is categorical here: its parameters are the log probabilities of its symbols."""
        columns = tuple(replace(c, kind="categorical") for c in self.columns)
        return Heads(Space(columns, (self.dims,))).to(self.back.device)

    @property
    def order(self) -> list[int]:
        return self._order

    # ------------------------------------------------------------------------------------------------------- digits

    def _values(self, z: torch.Tensor) -> torch.Tensor:
        """(n, \\*event) -> digits (D + 2, n): the values, outside, and the end of what is known."""
        z = z.reshape(len(z), -1).T
        values = torch.empty(self.dims + 2, z.shape[1], dtype=torch.long, device=z.device)
        values[: self.dims] = torch.nan_to_num(z) if z.is_floating_point() else z
        values[self.dims], values[self.dims + 1] = self.outside, self.levels + 1
        return values

    def _columns(self, values: torch.Tensor, kept: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """Yield the digits g, a_1, ..., a_k, x of all positions, or of those kept, each of shape (D n,)."""
        flat = (lambda t: t.reshape(-1)) if kept is None else (lambda t: t.reshape(-1)[kept])
        yield flat(self.group[:, None].expand(-1, values.shape[1]))
        for j in range(self.longest):
            yield flat(values[self.near[:, j]])
        yield flat(values[: self.dims])

    def _rows_at(self, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the digits (U, k + 2) of some of the D n positions."""
        n = values.shape[1]
        d, i = places // n, places % n
        context = values[self.near[d], i[:, None]]
        return torch.cat([self.group[d, None], context, values[d, i][:, None]], 1).to(torch.int32)

    def _chunks(self, n: int) -> list[slice]:
        rows = max(AT_ONCE // max(self.dims, 1), 1)
        return [slice(start, start + rows) for start in range(0, n, rows)]

    @staticmethod
    def _kept(z: torch.Tensor) -> torch.Tensor | None:
        """The places, among D n, of values that are there; None if all are."""
        if not z.is_floating_point() or not z.isnan().any():
            return None
        return (~z.reshape(len(z), -1).T.isnan()).reshape(-1).nonzero()[:, 0]

    # ----------------------------------------------------------------------------------------------------- counting

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Add the positions of z to the counts; counting in two halves is counting at once."""
        for part in self._chunks(len(z)):
            values, kept = self._values(z[part]), self._kept(z[part])
            w = torch.ones(values.shape[1], dtype=torch.float64, device=z.device) if weight is None else weight[part]
            w = w.expand(self.dims, -1).reshape(-1)
            w = w if kept is None else w[kept]
            one, counts = tally(self._columns(values, kept), self.sizes, w)
            rows = self._rows_at(values, one if kept is None else kept[one])
            if self._rows is not None:
                rows, counts = torch.cat([self._rows, rows]), torch.cat([self._counts, counts])
                one, counts = tally(rows.T, self.sizes, counts)
                rows = rows[one]
            self._rows, self._counts = rows, counts
        return torch.zeros((), dtype=torch.float64)

    def update(self) -> None:
        """Choose the length of the context and the smoothing by leave-one-out likelihood; make the table."""
        held = self._counts > 0
        rows, counts = self._rows[held], self._counts[held]
        kind = {"auto": "absolute" if self.stop is None else "kneser_ney"}.get(self.smoothing, self.smoothing)
        best, in_vain = None, 0
        for k in [k for k in ORDERS if k < self.longest and self.climb] + [self.longest]:
            tried = self._fitted(rows, counts, k, kind, best)
            if self.smoothing == "auto" and (k == self.longest or _gain(tried, best) < WORTHWHILE):
                other = "absolute" if kind == "kneser_ney" else "kneser_ney"
                second = self._fitted(rows, counts, k, other, None)
                tried, kind = (second, other) if _gain(second, tried) > 0 else (tried, kind)
            better = _gain(tried, best) >= WORTHWHILE
            best, in_vain = (tried, 0) if better else (best, in_vain + 1)
            if in_vain == PATIENCE:
                break
        trie, self.laws, _ = best
        self.nodes, self.pairs = trie.nodes, trie.pairs
        self.share, self.back = trie.ratios(self.laws)
        self._rows = self._counts = None

    def _fitted(self, rows: torch.Tensor, counts: torch.Tensor, k: int, smoothing: str, start: tuple | None) -> tuple:
        """Return the trie of contexts of length k, its parameters, and its leave-one-out likelihood."""
        if k < self.longest:
            rows = torch.cat([rows[:, : k + 1], rows[:, -1:]], 1)
            one, counts = tally(rows.T, [*self.sizes[: k + 1], self.levels], counts)
            rows = rows[one]
        trie = Trie(rows, counts, self.groups, self.base, self.levels, self.stop, smoothing != "absolute")
        ppm = torch.tensor(PPM, dtype=torch.float64, device=counts.device).expand(k + 1, -1)
        parameters = ppm.clone() if smoothing == "ppm" else trie.fit(self.even, None if start is None else start[1])
        return trie, parameters, trie.leave_one_out(parameters, self.even)

    # ----------------------------------------------------------------------------------------------------- evaluate

    def log_prob_each(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return log P(x_d | its context) with shape (n, D); zero where z is missing."""
        parts = [torch.zeros(0, self.dims, dtype=torch.float64, device=z.device)]
        for part in self._chunks(len(z)):
            values, kept = self._values(z[part]), self._kept(z[part])
            keys, which = distinct(*fold(self._columns(values, kept), self.sizes))
            one = torch.empty(len(keys), dtype=torch.long, device=z.device)
            one[which] = torch.arange(len(which), device=z.device)
            found = self._p(self._rows_at(values, one if kept is None else kept[one])).log()[which]
            log_p = torch.zeros(self.dims * values.shape[1], dtype=torch.float64, device=z.device)
            log_p[slice(None) if kept is None else kept] = found
            parts.append(log_p.reshape(self.dims, -1).T)
        return torch.cat(parts)

    def _descend(self, group: torch.Tensor, context) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (which rows, their nodes), from the root to the longest context that is known: digits (U, k)."""
        rows, node = torch.arange(len(group), device=group.device), group.long()
        yield rows, node
        for j in range(len(self.laws) - 1):
            place, found = find(self.nodes, node * self.base + context[rows, j])
            rows, node = rows[found], self.groups + place[found]
            if not len(rows):
                return
            yield rows, node

    def _p(self, digits: torch.Tensor) -> torch.Tensor:
        """P_k(x | c) of digits (U, k + 2)."""
        digits = digits.long()
        p = self.even[digits[:, 0]]
        for rows, node in self._descend(digits[:, 0], digits[:, 1:-1]):
            place, found = find(self.pairs, node * self.levels + digits[rows, -1])
            share = torch.where(found, self.share[place], 0.0)
            p = p.index_copy(0, rows, self.back[node] * p[rows] + share)
        return p

    def _distribution(self, d: int, values: torch.Tensor) -> torch.Tensor:
        """P_k(. | c) of position d for each example: digits (D + 2, n) -> (n, K_d)."""
        n, k = values.shape[1], self.columns[d].n_levels
        group = self.group[d].expand(n)
        p = self.even[group][:, None].repeat(1, k)
        for rows, node in self._descend(group, values[self.near[d]].T):
            first = torch.searchsorted(self.pairs, node * self.levels)
            seen = torch.searchsorted(self.pairs, (node + 1) * self.levels) - first  # symbols seen after each context
            own = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), seen)
            pair = torch.arange(len(own), device=rows.device) + (first - seen.cumsum(0) + seen)[own]
            new = p[rows] * self.back[node][:, None]
            new.view(-1).index_add_(0, own * k + self.pairs[pair] % self.levels, self.share[pair])
            p = p.index_copy(0, rows, new)
        return p

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log probabilities of every symbol at every position given those before, (n, P)."""
        values = self._values(z)
        params = torch.empty(len(z), self.heads.size, dtype=torch.float64, device=z.device)
        for d in range(self.dims):
            params[:, self.heads.single(d)[1]] = self._distribution(d, values).log()
        return params

    # ------------------------------------------------------------------------------------------------------- sample

    def start(self, n: int, c: torch.Tensor | None = None) -> _State:
        """Return the state before any position is known."""
        nothing = torch.full((n, self.dims), torch.nan, dtype=torch.float64, device=self.back.device)
        return _State(self._values(nothing), self._order)

    def step(self, state: _State, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the position last asked for; return log probabilities (n, K_d) of the next one."""
        if value is not None:
            state.values[state.order[state.k]] = torch.nan_to_num(value).long()
            state.k += 1
        return self._distribution(state.order[state.k], state.values).log()

    def _uniforms(self, n, rng):
        return uniform(rng, (n, self.dims, N_UNIFORMS), self.back)

    def _draw(self, state, u, known=None):
        """Like those of all, but NaN after the end of a string."""
        z = torch.full(u.shape[:2], torch.nan, dtype=self.back.dtype, device=u.device)
        over, value = torch.zeros(len(u), dtype=torch.bool, device=u.device), None
        for d in state.order:
            params = self.step(state, value)
            value = self.heads.single(d)[0].sample(params, u[:, d : d + 1])[:, 0]
            if known is not None:
                value = torch.where(known[:, d].isnan(), value, known[:, d].to(value))
            z[:, d] = torch.where(over, torch.nan, value)
            if self.ends:
                over |= value == self.levels - 1
                if over.all():
                    break
        return z


def _gain(tried: tuple, best: tuple | None) -> float:
    """By which share of the nats the leave-one-out likelihood is better."""
    return 1.0 if best is None else (tried[2] - best[2]) / abs(best[2])


@estimator
class ContextTable(Generative):
    """Counts of what follows each context, smoothed by shorter ones: n-grams of text, causal contexts of images; exact.

    References: Chen and Goodman, 1999.

    Examples:
        >>> import plausible as pl
        >>> words = ["banana", "ananas", "bandana"] * 20
        >>> model = pl.ContextTable(order=3).fit(words)
        >>> bool(model.score(["banana"]) > model.score(["bbbnnn"]))
        True
        >>> model.sample(2, random_state=0)
        ['banas', 'bananas']
    """

    order: int | str = option(
        "auto", "values in the longest context; 'auto' takes the number of the best leave-one-out likelihood",
        low=0, choices=("auto",),
    )  # fmt: skip
    smoothing: str = option(
        "auto",
        "how shorter contexts are counted: 'absolute' by how often they occurred, 'kneser_ney' by how many longer ones "
        "continue them, 'ppm' likewise with escapes by rule (PPM-C); 'auto' is the better of the first two (of a long "
        "text: 'kneser_ney')",
        choices=("auto", "kneser_ney", "absolute", "ppm"),
    )
    position: bool | str = option(
        "auto", "a table for each position instead of one for all; 'auto' for tables of columns only", choices=("auto",)
    )

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text"}),
        kinds=frozenset({"binary", "categorical", "ordinal"}),
        conditionals=True,
        streams=True,
        given="in_order",
    )

    def _transforms(self, space: Space):
        return []

    def _build(self, space: Space, context_space: Space) -> Module:
        image, by_position = space.type == "image", self.position
        if by_position == "auto":
            by_position = space.type == "table"
        if not by_position and any(c.levels != space.columns[0].levels for c in space.columns):
            raise OptionError(
                "ContextTable(position=False) counts all columns in one table and needs them to have the same levels; "
                "use position=True"
            )
        groups = space.dims if by_position else space.shape[0] if image else 1
        longest = self._longest(space, groups)
        order, group, near = _causal(space.shape, longest) if image else _in_line(space, by_position, longest)
        group = list(range(space.dims)) if by_position else group
        ends, smoothing = space.type == "text" and space.end, self.smoothing
        if smoothing == "auto" and space.type == "text" and not space.end:
            # What was written near by repeats itself and flatters the one that trusts frequencies: one character left
            # out of a long text is no fair test between the two (tiny Shakespeare: 0.3 % better, then 2 % worse).
            smoothing = "kneser_ney"
        return _ContextTable(space, near, group, order, 0 if image else None, self.order == "auto", smoothing, ends)

    def _longest(self, space: Space, groups: int) -> int:
        """The longest context asked for, or that is worth a look and has a key of its own."""
        if self.order != "auto":
            return int(self.order)
        levels = max(c.n_levels for c in space.columns)
        k, most = 0, LONGEST_OF_IMAGES if space.type == "image" else LONGEST
        while k < most and groups * levels * (levels + 2) ** (k + 1) < FITS:
            k += 1
        return k


def _in_line(space: Space, by_position: bool, most: int) -> tuple[list[int], list[int], list[list[int]]]:
    """Order, groups and contexts of values that follow each other: those just before, then the beginning.

    What comes before a window of a long text is not known, and a table that is for one position knows where it is.
    """
    dims = space.dims
    begins = not by_position and not (space.type == "text" and not space.end)
    reach = min(dims if begins else dims - 1, most)
    places = [[d - j if j <= d else dims + (j > d + 1 or not begins) for j in range(1, reach + 1)] for d in range(dims)]
    return list(range(dims)), [0] * dims, places


def _causal(shape: tuple[int, ...], most: int) -> tuple[list[int], list[int], list[list[int]]]:
    """Order, groups and contexts of pixels: row by row, the channels of a pixel together; the nearest values first."""
    channels, height, width = shape
    dims = channels * height * width
    order = [(c * height + y) * width + x for y in range(height) for x in range(width) for c in range(channels)]
    near: list[list[int]] = [[] for _ in range(dims)]
    for c in range(channels):
        offsets = [(0, 0, b) for b in range(c)]
        reach = math.isqrt(most) + 2  # rows above and columns on either side that hold the nearest
        for dy in range(-min(height - 1, reach), 1):
            for dx in range(-min(width - 1, reach), min(width - 1, reach) + 1):
                if dy < 0 or dx < 0:
                    offsets += [(dy, dx, b) for b in range(channels)]
        # Of equal distance, those to the right tell more: the pixel above more than the one on the left.
        offsets.sort(key=lambda o: (o[0] ** 2 + o[1] ** 2, -o[1], o[0], o[2] != c, o[2]))
        offsets = offsets[:most]
        for y in range(height):
            for x in range(width):
                near[(c * height + y) * width + x] = [
                    (b * height + y + dy) * width + x + dx if 0 <= y + dy and 0 <= x + dx < width else dims
                    for dy, dx, b in offsets
                ]
    fewest = min(map(len, near))
    return order, [d // (height * width) for d in range(dims)], [places[:fewest] for places in near]
