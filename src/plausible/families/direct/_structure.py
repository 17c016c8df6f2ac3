r"""Which column is a parent of which: the exact best tree, and search by score.

The score of a directed acyclic graph is a sum over its families (``_scores.py``), so a move changes one or two terms:

    score(G) = sum_d score(d, pa_d) - log D  x  number of edges

log D being what it takes to say which of D columns a parent is: without it, many columns and few rows make edges that
nothing bears out.

A tree has one parent a column at most, and its log-likelihood is a constant plus the mutual information of its edges:
the best one is a maximum spanning tree. Columns of levels (tables) take parents of levels only, lattices (counts) take
tables and lattices, reals take any: what is missing can then be integrated out exactly, and every family has a closed
form. Within a kind the information is symmetric, so Prim's algorithm, kind after kind, finds the best of these trees.

References: Chow and Liu, 1968. Heckerman, Geiger and Chickering, 1995 (search by adding, dropping and reversing).
Friedman, Nachman and Pe'er, 1999 (few candidates a column). Koller and Friedman, Probabilistic Graphical Models, 2009,
section 18.4 (escape from local optima).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from plausible.errors import DataError
from plausible.families.direct._scores import Statistics

CANDIDATES = 50  # columns that may become parents of one, in a search: those it shares most information with

LONGEST_MEMORY = 10  # pairs that a search leaves as they are while it gets over a rim


# ------------------------------------------------------------------------------------------------- given by the user


def given_parents(structure, names: Sequence[str]) -> list[list[int]]:
    """Return the parents of each column from {child: [parents]} or from edges (parent, child) or 'parent>child'.

    Raises:
        DataError: a column is not there, is its own parent, or the edges make a cycle; the message names it.
    """
    place = {name: d for d, name in enumerate(names)}

    def resolve(name) -> int:
        if str(name) in place:
            return place[str(name)]
        if str(name).isdecimal() and int(name) < len(names):
            return int(name)
        known = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(f"structure names the column {name!r}, which the data do not have; they have {known}")

    if isinstance(structure, Mapping):
        edges = [(p, child) for child, parents in structure.items() for p in _listed(parents)]
        for child in structure:
            resolve(child)
    else:
        edges = [_edge(e) for e in structure]
    parents: list[set[int]] = [set() for _ in names]
    for p, child in edges:
        parents[resolve(child)].add(resolve(p))
    order_of(parents, names)
    return [sorted(p) for p in parents]


def _listed(parents) -> Sequence:
    return [parents] if isinstance(parents, (str, int)) else parents


def _edge(edge) -> tuple:
    pair = edge.split(">") if isinstance(edge, str) else edge
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(
            f"structure must be {{child: [parents]}} or a list of edges (parent, child) or 'parent>child'; got {edge!r}"
        )
    return tuple(p.strip() if isinstance(p, str) else p for p in pair)


def order_of(parents: Sequence, names: Sequence[str] | None = None) -> list[int]:
    """Return the columns, parents before children.

    Raises:
        DataError: there is a cycle; the message names it.
    """
    children: list[list[int]] = [[] for _ in parents]
    left = [len(p) for p in parents]
    for d, of in enumerate(parents):
        for p in of:
            children[p].append(d)
    order = [d for d, k in enumerate(left) if not k]
    for d in order:
        for child in children[d]:
            left[child] -= 1
            if not left[child]:
                order.append(child)
    if len(order) < len(parents):
        raise DataError(f"structure has a cycle: {_cycle(parents, left, names)}; take out one of these edges")
    return order


def _cycle(parents, left, names) -> str:
    """Walk from parent to parent among the columns that were never free, until one comes again."""
    d = next(d for d, k in enumerate(left) if k)
    walk = [d]
    while True:
        d = next(p for p in parents[d] if left[p])
        if d in walk:
            cycle = [d, *reversed(walk[walk.index(d) :])]
            return " -> ".join(repr(names[d]) if names else str(d) for d in cycle)
        walk.append(d)


def complete(rank: Sequence[int]) -> list[list[int]]:
    """Every column has all columns before it as parents, columns of lower rank being before those of higher."""
    order = sorted(range(len(rank)), key=lambda d: (rank[d], d))
    parents: list[list[int]] = [[] for _ in rank]
    for i, d in enumerate(order):
        parents[d] = sorted(order[:i])
    return parents


# ------------------------------------------------------------------------------------------------------------ searches


def chow_liu(information: np.ndarray, rank: Sequence[int]) -> list[list[int]]:
    """Return the parents (one at most) of each column in the tree, or forest, with most information on its edges."""
    D, rank = len(information), np.asarray(rank)
    parents: list[list[int]] = [[] for _ in range(D)]
    best, source = np.full(D, -1.0), np.full(D, -1)
    for kind in np.unique(rank):
        left = rank == kind
        while left.any():
            d = int(np.argmax(np.where(left, best, -2.0)))
            left[d] = False
            if best[d] > 1e-12:
                parents[d] = [int(source[d])]
            closer = information[d] > best
            best, source = np.where(closer, information[d], best), np.where(closer, d, source)
    return parents


def allowed(information: np.ndarray, rank: Sequence[int]) -> np.ndarray:
    """Whether a column may have another as its parent: (D, D). Of many columns, those it shares most with."""
    rank = np.asarray(rank)
    out = rank[:, None] >= rank
    np.fill_diagonal(out, False)
    if len(rank) > CANDIDATES + 1:
        least = np.partition(information, -CANDIDATES, axis=1)[:, -CANDIDATES]
        near = information >= least[:, None]
        out &= near | near.T
    return out


def hill_climb(
    scores: Statistics, start: Sequence[Sequence[int]], allowed: np.ndarray, max_parents: int, patience: int = 30
) -> tuple[list[list[int]], float]:
    """Add, drop or reverse the edge that raises the score most, until none does; then try to get over the rim.

    Args:
        scores: offers `local(child, parents)` and `gains(child, parents, allowed)`.
        start: the parents of each column to begin with.
        allowed: (D, D), whether a column may have another as its parent.
        max_parents: of a column.
        patience: moves in a row that may lower the score, none of them back, before the best graph is taken.

    Returns:
        The parents of each column, and the score.
    """
    return _Climb(scores, start, allowed, max_parents)(patience)


class _Climb:
    """Legend: raw[c, p], the gain of p as a further parent of c, legal or not; top and where, the best that is legal.

    What lies below a column in the graph is kept as the bits of an integer.
    """

    def __init__(self, scores, start, allowed, max_parents):
        self.scores, self.allowed, self.most = scores, allowed, max_parents
        D = self.D = scores.D
        self.parents = [set(p) for p in start]
        self.children: list[set[int]] = [set() for _ in range(D)]
        for d, of in enumerate(self.parents):
            for p in of:
                self.children[p].add(d)
        self.edges = np.array([(c, p) for c, of in enumerate(self.parents) for p in of], dtype=int).reshape(-1, 2)
        self.below = self._trace()
        self.raw, self.drop = np.full((D, D), -np.inf), np.full((D, D), -np.inf)
        self.top, self.where = np.full(D, -np.inf), np.zeros(D, dtype=int)
        self.full = np.array([len(p) >= max_parents for p in self.parents])
        self.barred: list[tuple[int, int]] = []
        self.memory = max(min(LONGEST_MEMORY, D * (D - 1) // 4), 1)
        for c in range(D):
            self._refresh(c)

    def __call__(self, patience: int) -> tuple[list[list[int]], float]:
        total = best = sum(self.scores.local(c, p) for c, p in enumerate(self.parents))
        kept, steps = None, 0  # the best graph, once it has been left
        while True:
            gain, move = self._best_move()
            if move is None or (gain <= 1e-9 and steps == patience):
                break
            if gain <= 1e-9 or steps:
                kept = [set(p) for p in self.parents] if kept is None else kept
                steps += 1
                self._bar(move[0][:2])
            self._make(move)
            total += gain
            if total > best + 1e-7:
                best, kept, steps = total, None, 0
                while self.barred:
                    self._free()
            elif steps > patience:
                break
        return [sorted(p) for p in kept or self.parents], float(best)

    def _bar(self, pair: tuple[int, int]) -> None:
        """Leave a pair as it is for some moves; a small graph has few pairs to spare."""
        if len(self.barred) == self.memory:
            self._free()
        self.barred.append(pair)
        for c in pair:
            self._rank_row(c)

    def _free(self) -> None:
        for c in self.barred.pop(0):
            self._rank_row(c)

    def _best_move(self):
        """Return (gain, [(child, parent, added?), ...]) of the best legal move."""
        gain, move = -np.inf, None
        c, p = self.edges.T
        for a, b in self.barred:
            free = ~((c == a) & (p == b) | (c == b) & (p == a))
            c, p = c[free], p[free]
        if len(c):
            gains = self.drop[c, p]
            i = int(np.argmax(gains))
            gain, move = float(gains[i]), [(int(c[i]), int(p[i]), False)]
            turned = np.where(self.full[p], -np.inf, gains + self.raw[p, c])
            while True:
                i = int(np.argmax(turned))
                if not turned[i] > gain:
                    break
                child, parent = int(c[i]), int(p[i])
                if not self._reaches_otherwise(parent, child):
                    gain, move = float(turned[i]), [(child, parent, False), (parent, child, True)]
                    break
                turned[i] = -np.inf
        while True:
            child = int(np.argmax(self.top))
            if not self.top[child] > gain:
                return gain, move
            parent = int(self.where[child])
            if not self.below[child] >> parent & 1:
                return float(self.top[child]), [(child, parent, True)]
            self._rank_row(child)  # edges that came since have made it a cycle

    def _reaches_otherwise(self, a: int, b: int) -> bool:
        """Whether a path leads from a to its child b besides the edge."""
        return any(self.below[x] >> b & 1 for x in self.children[a] if x != b)

    def _trace(self) -> list[int]:
        below = [0] * self.D
        for d in reversed(order_of(self.parents)):
            for x in self.children[d]:
                below[d] |= below[x] | 1 << x
        return below

    def _make(self, move) -> None:
        for c, p, added in move:
            (self.parents[c].add if added else self.parents[c].discard)(p)
            (self.children[p].add if added else self.children[p].discard)(c)
            self.full[c] = len(self.parents[c]) >= self.most
            if added:
                self.edges = np.concatenate([self.edges, [[c, p]]])
            else:
                self.edges = self.edges[~((self.edges[:, 0] == c) & (self.edges[:, 1] == p))]
        if len(move) == 1 and move[0][2]:
            c, p, _ = move[0]
            new = self.below[c] | 1 << c
            self.below = [b | new if a == p or b >> p & 1 else b for a, b in enumerate(self.below)]
        else:  # what closed a cycle may do so no more
            before, self.below = self.below, self._trace()
            for c, (a, b) in enumerate(zip(before, self.below, strict=True)):
                if a & ~b:
                    self._rank_row(c)
        for c in {c for c, _, _ in move}:
            self._refresh(c)

    def _refresh(self, c: int) -> None:
        of = sorted(self.parents[c])
        own = self.scores.local(c, of)
        self.raw[c] = self.scores.gains(c, of, self.allowed[c])
        self.drop[c] = -np.inf
        for p in of:
            self.drop[c, p] = self.scores.local(c, [x for x in of if x != p]) - own
        self._rank_row(c)

    def _rank_row(self, c: int) -> None:
        """Find the best further parent of c that closes no cycle."""
        if self.full[c]:
            self.top[c] = -np.inf
            return
        bits = np.frombuffer(self.below[c].to_bytes(-(-self.D // 8), "little"), dtype=np.uint8)
        row = np.where(np.unpackbits(bits, count=self.D, bitorder="little"), -np.inf, self.raw[c])
        for a, b in self.barred:
            if c in (a, b):
                row[b if c == a else a] = -np.inf
        self.where[c] = int(np.argmax(row))
        self.top[c] = row[self.where[c]]
