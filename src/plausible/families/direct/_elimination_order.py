"""The order in which variables are eliminated, and what it will cost: chosen before any table is touched.

Eliminating a variable joins all its neighbours (variables that share a table with it) in one table. Finding the order
with the smallest tables is NP-hard; two greedy rules, the fewest new neighbours and the smallest next table, are tried
and the better one taken.

Reference: Kjaerulff, Triangulation of graphs: algorithms giving small total state space, 1990.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from plausible.errors import DataError

LIMIT = 2 << 30  # bytes of the tables that are alive at once
SMALL = 10_000  # entries of all tables, from which on it is worth looking for a better order


@dataclass(frozen=True)
class Plan:
    """How the variables will be eliminated, and what it costs for one row.

    Args:
        order: the variables in the order of their elimination.
        largest: entries of the largest table.
        total: entries of all tables: the work.
        bytes: memory of the tables that are alive at once.
    """

    order: tuple[int, ...]
    largest: int
    total: int
    bytes: int


def plan(
    cardinalities: Mapping[int, int] | Sequence[int],
    scopes: Iterable[Sequence[int]],
    keep: Iterable[int] = (),
    *,
    limit: int = LIMIT,
    both_ways: bool = False,
) -> Plan:
    """Choose an order of elimination: by least fill or least weight, whichever takes less work.

    Args:
        cardinalities: the number of levels of each variable.
        scopes: the variables of each table; those that are known are left out.
        keep: variables that stay.
        limit: bytes of tables alive at once.
        both_ways: count in the tables that `expected_counts` and `posteriors` keep for the way back.

    Raises:
        DataError: the tables would not fit within `limit`; nothing was computed.
    """
    cards = cardinalities if isinstance(cardinalities, Mapping) else dict(enumerate(cardinalities))
    scopes, keep = frozenset(frozenset(scope) for scope in scopes), frozenset(keep)
    used = sorted(keep.union(*scopes))
    found = _plan(tuple((v, int(cards[v])) for v in used), scopes, keep)
    memory = found.bytes + (16 * found.total if both_ways else 0)
    if memory > limit:
        raise DataError(
            f"exact inference would need tables of {_size(memory)}, the largest over {found.largest:,} combinations of "
            f"levels, and the limit is {_size(limit)}; let more variables be known, ask for fewer at a time, or take a "
            "network with fewer parents or levels"
        )
    return replace(found, bytes=memory)


def _size(n: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.0f} TB"


@lru_cache(maxsize=1024)
def _plan(cards: tuple[tuple[int, int], ...], scopes: frozenset[frozenset[int]], keep: frozenset[int]) -> Plan:
    numbers = [v for v, _ in cards]
    place = {v: i for i, v in enumerate(numbers)}
    sizes = [k for _, k in cards]
    neighbours = [0] * len(cards)
    for scope in scopes:
        mask = sum(1 << place[v] for v in scope)
        for v in scope:
            neighbours[place[v]] |= mask & ~(1 << place[v])
    out = [place[v] for v in numbers if v not in keep]
    given = sum(prod(sizes[place[v]] for v in scope) for scope in scopes)
    best = None
    for least_fill in (True, False):
        order, tables, messages = _greedy(list(neighbours), sizes, set(out), least_fill)
        if best is None or sum(tables) < sum(best[1]):
            best = order, tables, messages
        if sum(tables) < SMALL:
            break
    order, tables, messages = best
    largest = max([*tables, prod(sizes[place[v]] for v in keep)])
    # Messages stay for the way back; a product, its exponentials and a sum of two are alive at once.
    memory = 8 * (given + sum(messages) + 3 * largest)
    return Plan(tuple(numbers[i] for i in order), largest, max(sum(tables), largest), memory)


def _greedy(neighbours: list[int], sizes: list[int], left: set[int], least_fill: bool):
    """Eliminate step by step what costs least now; return the order and the entries of tables and messages."""

    def cost(i: int) -> tuple[int, int, int]:
        around = neighbours[i]
        table = sizes[i] * prod(sizes[j] for j in _bits(around))
        fill = sum((around & ~neighbours[j]).bit_count() - 1 for j in _bits(around)) if least_fill else 0
        return fill, table, i

    costs = {i: cost(i) for i in left}
    order, tables, messages = [], [], []
    while costs:
        _, table, i = min(costs.values())
        del costs[i]
        order.append(i)
        tables.append(table)
        messages.append(table // sizes[i])
        around = neighbours[i]
        touched = around
        for j in _bits(around):
            neighbours[j] = (neighbours[j] | around) & ~(1 << i) & ~(1 << j)
            touched |= neighbours[j]
        for j in _bits(touched if least_fill else around):
            if j in costs:
                costs[j] = cost(j)
    return order, tables, messages


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
