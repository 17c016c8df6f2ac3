r"""The ways from a model to symbols: each is one walk for both directions, so that both compute the same numbers.

    step by step     p(x_d | x_<d) from `start` and `step` of the module, all examples at once
    by marginals     p(x_d | x_<d) = p(x_<=d) / p(x_<d), where the rest can be integrated out
    bits-back        pop h from q(h | x), push x by p(x | h), push h by p(h): -log p(x | h) p(h) / q(h | x) nats,
                     on average the negative bound; h is cut into cells of 1/1024

A walk is given codes when writing, and the same codes with only what is known beside them when reading: it calls the
coder with the symbols, or asks it for them.

References: Hinton and van Camp, 1993, and Townsend, Bird and Barber, Practical lossless compression with latent
variables using bits back coding, 2019, https://arxiv.org/abs/1901.04866 (bits-back).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from plausible import registry
from plausible.errors import CapabilityError
from plausible.uses.compress._cells import Cells, by_levels
from plausible.uses.compress._coding import Guard, Reader, Stack, Writer, read_varint, to_bytes, to_words, varint

MEMORY = 1 << 28  # bytes of the states of the examples that go through a module together
MOST_LANES = 4096
ROWS_AT_ONCE = 1 << 21  # numbers of model space scored in one go
INSIDE = 4  # points at which the density is looked at in a stretch of a lattice
GRAIN, REACH = 1024, 8  # cells of a latent dimension to a unit, and units to either side
OCTAVE = 8  # deviations of the encoder are rounded to so many to a factor of two
BATCH = 64  # examples of which bits-back takes the codes together, at most
CODE_BITS = 16  # that a latent dimension takes, or less: as many are there for those of a batch


class Walk:
    """One example after the other or side by side, in a fixed arrangement.

    Args:
        model: a fitted one.
        cells: of its space.
        c: features of the context (n, F), or None.
        lanes: examples side by side; as many as the memory takes, unless a file says so.
    """

    def __init__(self, model: Any, cells: Cells, c: torch.Tensor | None, lanes: int | None = None):
        self.model, self.cells, self.module = model, cells, model.module_
        self.c = None if c is None else c.to(self.module.dtype)
        self.route = route_of(model)
        self.lanes = lanes or self._lanes()

    def write(self, index: np.ndarray, coded: np.ndarray) -> tuple[bytes, bytes]:
        """Indices (n, D), and which of them to code -> payload and notes."""
        if self.route is bits_back:
            return bits_back(self, index, coded)
        writer = Writer()
        self.route(self, writer, index, coded)
        return writer.data(), writer.guard.notes()

    def read(self, coded: np.ndarray, payload: bytes, notes: bytes) -> np.ndarray:
        """Return the indices (n, D); of a ragged space -1 from an end on."""
        if self.route is bits_back:
            return bits_back(self, None, coded, payload, notes)
        return self.route(self, Reader(payload, notes), None, coded)

    def part(self, rows: slice) -> torch.Tensor | None:
        """The context of some examples."""
        return None if self.c is None else self.c[rows] if len(self.c) > 1 else self.c

    def _lanes(self) -> int:
        if self.route is not step_by_step:
            return MOST_LANES  # it is not used
        c = None if self.c is None else self.c[:1].expand(2, -1)
        each = _bytes(self.module.start(2, c)) // 2 + 8 * self.model.space_.dims
        return int(min(max(MEMORY // each, 1), MOST_LANES))


def route_of(model: Any) -> Any:
    """Return the way that a model's family allows.

    Raises:
        CapabilityError: there is none; says which families have one.
    """
    traits, module = model.traits, model.module_
    if not model.transforms_.stochastic:
        if traits.conditionals and traits.density == "exact":
            return step_by_step
        if (traits.missing or traits.marginals) and traits.density == "exact":
            return by_marginals
        if traits.latent and all(hasattr(module, name) for name in ("posterior", "decode", "heads")):
            return bits_back
    space = model.space_
    able = registry.capable(
        lambda f: (
            f.can_model(space) is None
            and (f.traits.density == "exact" and (f.traits.conditionals or f.traits.missing or f.traits.marginals))
        )
    )
    why = "its data are made real by noise" if model.transforms_.stochastic else "it has no conditionals to code by"
    raise CapabilityError(f"{type(model).__name__} cannot compress: {why}; these families can: {', '.join(able)}")


def _bytes(state: Any, known: set | None = None) -> int:
    """The memory of all arrays that a state holds."""
    known = set() if known is None else known
    if id(state) in known or isinstance(state, torch.nn.Module):
        return 0
    known.add(id(state))
    if isinstance(state, torch.Tensor | np.ndarray):
        return state.nbytes
    if isinstance(state, dict):
        return sum(_bytes(v, known) for v in state.values())
    if isinstance(state, list | tuple):
        return sum(_bytes(v, known) for v in state)
    return _bytes(vars(state), known) if hasattr(state, "__dict__") else 0


def _known(index: np.ndarray | None, rows: slice, d: int) -> np.ndarray | None:
    return None if index is None else index[rows, d]


# ---------------------------------------------------------------------------------------------------- step by step


def step_by_step(walk: Walk, coder: Any, index: np.ndarray | None, coded: np.ndarray) -> np.ndarray:
    """Code by the conditionals of the module."""
    out = np.full(coded.shape, -1, dtype=np.int64)
    space, cells = walk.model.space_, walk.cells
    end = space.columns[0].n_levels - 1 if getattr(space, "end", False) else None
    with torch.no_grad():
        for start in range(0, len(coded), walk.lanes):
            rows = slice(start, start + walk.lanes)
            todo, c = coded[rows].copy(), walk.part(rows)
            n = len(todo)
            state, value = walk.module.start(n, None if c is None else c.expand(n, -1)), None
            over = np.zeros(n, dtype=bool)
            for d in _needed(state.order, todo):
                if over.all():
                    break
                params = walk.module.step(state, value)
                head = walk.module.heads.single(d)[0].heads[0]
                found = cells.by_head(coder, d, head, params, _known(index, rows, d), todo[:, d] & ~over)
                out[rows, d] = np.where(over, -1, found)
                over |= end is not None and found == end
                value = cells.seen(d, found).to(params.dtype)
    return out


def _needed(order: list[int], todo: np.ndarray) -> list[int]:
    """The dimensions up to the last one that any example has."""
    held = np.flatnonzero(todo.any(0)[order])
    return order[: held[-1] + 1] if len(held) else []


# ---------------------------------------------------------------------------------------------------- by marginals


def by_marginals(walk: Walk, coder: Any, index: np.ndarray | None, coded: np.ndarray) -> np.ndarray:
    """Code by the marginals of the first d dimensions; what is not coded is integrated out."""
    model, cells = walk.model, walk.cells
    n, dims = coded.shape
    out, x = np.full(coded.shape, -1, dtype=np.int64), torch.full((n, dims), torch.nan, dtype=torch.float64)
    end = model.space_.columns[0].n_levels - 1 if getattr(model.space_, "end", False) else None
    most = max(min(max(cells.sizes), 64), 1)
    rows_at_once = max(ROWS_AT_ONCE // (most * dims), 1)
    for start in range(0, n, rows_at_once):
        rows = slice(start, start + rows_at_once)
        over = np.zeros(len(out[rows]), dtype=bool)
        for d in getattr(walk.module, "order", range(dims)):  # in which what is not known yet is easily left out
            todo = coded[rows, d] & ~over
            if not todo.any():
                continue
            some = np.flatnonzero(todo)
            at = some + start
            known = None if index is None else index[at, d]
            everything = np.ones(len(some), dtype=bool)

            def log_p(values: np.ndarray, at=at, d=d) -> torch.Tensor:
                """log p(x_<d, x_d = v) of values (n, m)."""
                each = x[at][:, None].repeat(1, values.shape[1], 1)
                each[:, :, d] = torch.from_numpy(values)
                c = walk.c if walk.c is None or len(walk.c) == 1 else walk.c[at].repeat_interleave(values.shape[1], 0)
                c = None if c is None else c.expand(each.shape[0] * each.shape[1], -1)
                with torch.no_grad():
                    found = model._log_prob(walk.module, each.reshape(-1, *model.space_.shape), c, None)
                return found.nan_to_num(nan=-torch.inf).reshape(values.shape)

            if cells.lattices[d] is None:
                levels = np.tile(np.arange(cells.sizes[d], dtype=float), (len(some), 1))
                found = by_levels(coder, log_p(levels), known, everything)
            else:
                lattice = cells.lattices[d]

                def below(edges: np.ndarray, log_p=log_p, lattice=lattice) -> np.ndarray:
                    return _integrated(log_p, lattice, edges)

                found = cells.by_cumulative(coder, d, below, len(some), known, everything)
            out[at, d] = found
            x[at, d] = torch.from_numpy(cells.numbers[d].value(found))
            if end is not None:
                over[some] |= found == end
    return out


def _integrated(log_p: Any, lattice: Any, edges: np.ndarray) -> np.ndarray:
    """The share of the mass between the first and the last edge that lies below each: (n, m)."""
    width = np.diff(edges, axis=1)
    inside = np.arange(INSIDE) if width.max() >= INSIDE else np.arange(max(int(width.max()), 1))
    points = edges[:, :-1, None] + (2 * inside + 1) * width[:, :, None] // (2 * len(inside))
    points = np.minimum(points, lattice.size - 1).reshape(len(edges), -1)
    found = log_p(lattice.value(points)).reshape(*width.shape, len(inside)).logsumexp(2)
    found = found + torch.from_numpy(width).log()
    top = found.max(1, keepdim=True).values
    mass = torch.where(top.isinf(), torch.from_numpy(width).double(), (found - top).exp())
    mass = torch.nn.functional.pad(mass.cumsum(1), (1, 0))
    return (mass / mass[:, -1:]).numpy()


# -------------------------------------------------------------------------------------------------------- bits-back


def bits_back(walk: Walk, index: np.ndarray | None, coded: np.ndarray, payload: bytes = b"", notes: bytes = b"") -> Any:
    """Code with a latent code, whose bits are taken back: (payload, notes), or when reading the indices (n, D).

    Examples come off the stack in the opposite order; what is noted of a batch has running numbers of its own.
    """
    module, n = walk.module, len(coded)
    writes = index is not None
    sizes, at = ([], 0) if writes else _sizes_in(payload)
    first = to_words(payload[at:]) if payload else _filler(module.latent)
    stack = Stack(first, Guard() if writes else Guard.of(notes), writes)
    out = index if writes else np.zeros(coded.shape, dtype=np.int64)
    apart = 1 << 40  # running numbers of a batch
    with torch.no_grad():
        for b, rows in _batches(n, sizes, stack, module.latent):
            m, c = rows.stop - rows.start, walk.part(rows)
            c = None if c is None else c.expand(m, -1)
            prior = np.zeros(m * module.latent), np.full(m * module.latent, float(GRAIN))
            if writes:
                stack.guard.at = b * apart
                law = _encoded(walk, stack.guard, out[rows], coded[rows], c)
                h = stack.pop_normal(*law, GRAIN * REACH)
            else:
                h = stack.pop_normal(*prior, GRAIN * REACH)
            stack.guard.at = b * apart + (apart >> 1)
            code = torch.from_numpy(h.astype(np.float64) / GRAIN).reshape(m, -1).to(module.dtype)
            params = module.decode(code, c)
            found = _observed(walk, stack, params, out[rows] if writes else None, coded[rows])
            if writes:
                stack.push()
                stack.push_normal(h, *prior, GRAIN * REACH)
            else:
                out[rows] = found
                stack.guard.at = b * apart
                stack.push_normal(h, *_encoded(walk, stack.guard, out[rows], coded[rows], c), GRAIN * REACH)
    if not writes:
        return out
    grow = [size for size in sizes if size < BATCH]
    return b"".join(map(varint, (len(grow), *grow))) + to_bytes(stack.words()), stack.guard.notes()


def _batches(n: int, sizes: list[int], stack: Stack, latent: int) -> Iterator[tuple[int, slice]]:
    """Number and rows of the batches, as large as the stack has bits for when writing; the last one first when reading.

    Sizes grow up to BATCH and are noted in `sizes`; where n ends, the last one may be cut.
    """
    if stack.writes:
        start = 0
        while start < n:
            full = len(sizes) > 0 and sizes[-1] == BATCH
            sizes.append(BATCH if full else min(max(stack.bits // (CODE_BITS * latent), 1), BATCH))
            yield len(sizes) - 1, slice(start, min(start + sizes[-1], n))
            start += sizes[-1]
        return
    starts = [0]
    while starts[-1] < n:
        k = len(starts) - 1
        starts.append(min(starts[-1] + (sizes[k] if k < len(sizes) else BATCH), n))
    for b in reversed(range(len(starts) - 1)):
        yield b, slice(starts[b], starts[b + 1])


def _sizes_in(payload: bytes) -> tuple[list[int], int]:
    """The sizes of the first batches, and where the words begin."""
    many, at = read_varint(payload, 0)
    sizes = []
    for _ in range(many):
        size, at = read_varint(payload, at)
        sizes.append(size)
    return sizes, at


def _filler(latent: int) -> np.ndarray:
    """Bits that the first example takes its code from."""
    words = latent * CODE_BITS // 32 + 1
    return np.random.default_rng(0).integers(1, 1 << 32, words, dtype=np.uint32)


def _encoded(walk: Walk, guard: Guard, index: np.ndarray, coded: np.ndarray, c) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of q(h | x) in cells, rounded: (m L,) each."""
    m, dims = index.shape
    z = torch.stack([walk.cells.seen(d, index[:, d]) for d in range(dims)], 1)
    z = torch.where(torch.from_numpy(coded), z, torch.nan)
    mean, log_sigma = walk.module.posterior(z.reshape(m, *walk.model.space_.shape).to(walk.module.dtype), c)
    mean = guard.round((mean * GRAIN).double().numpy(), 1e-7)
    octaves = guard.round((log_sigma / np.log(2) * OCTAVE).double().numpy(), 1e-9) / OCTAVE
    inside = GRAIN * REACH
    return np.clip(mean, -inside, inside).ravel(), np.clip(2.0**octaves * GRAIN, 0.5, inside).ravel()


def _observed(walk: Walk, coder: Any, params: torch.Tensor, index: np.ndarray | None, coded: np.ndarray) -> np.ndarray:
    """Code x given the parameters (m, P) of all its dimensions; columns that share a head of levels together."""
    heads, cells = walk.module.heads, walk.cells
    out = np.zeros(coded.shape, dtype=np.int64)
    for head, group in _groups(heads, coded.shape[1]):
        if hasattr(head, "components"):
            for d in group:
                own = params[:, heads.single(d)[1]]
                out[:, d] = cells.by_head(coder, d, head, own, _known(index, slice(None), d), coded[:, d])
            continue
        places = np.stack([np.arange(heads.size)[heads.single(d)[1]] for d in group])  # (G, P_d)
        own = params[:, torch.from_numpy(places)].flatten(0, 1)
        known = None if index is None else index[:, group].ravel()
        found = cells.by_head(coder, group[0], head, own, known, coded[:, group].ravel())
        out[:, group] = found.reshape(len(coded), -1)
    return out


def _groups(heads: Any, dims: int) -> list[tuple[Any, list[int]]]:
    """Dimensions whose laws have the same form: (head, dimensions)."""
    groups: dict[tuple, tuple] = {}
    for d in range(dims):
        head = heads.single(d)[0].heads[0]
        groups.setdefault((type(head).__name__, head.size), (head, []))[1].append(d)
    return list(groups.values())
