r"""What data say about pairs and families of columns: mutual information, and local scores.

    BIC      max log-likelihood - (log n) / 2  x  number of parameters
    BDeu     log probability of the counts under a Dirichlet prior of s rows, spread evenly over the cells of a family

Everything about levels goes through counts, which are products of matrices of indicators; everything about normals goes
through moment matrices, one for each configuration of some discrete parents, kept for all families that have those.

References: Schwarz, 1978 (BIC). Heckerman, Geiger and Chickering, Learning Bayesian networks, 1995 (BDeu).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.special import gammaln, xlogy

MOST_CELLS = 1 << 22  # of the table of one family, while searching
KEPT_MOMENTS = 1 << 24  # numbers in the moment matrices that are kept for further families
POOLED_ROWS = 1.0  # pseudo-rows of all rows in the moments of each configuration
SMALLEST_VARIANCE = 1e-6  # in standardised units


class Statistics:
    """Local scores and mutual information of columns.

    Args:
        z: the rows in model space (n, D), NaN where missing (only `information` takes such rows).
        levels: the number of levels of each column; 0 for normals (lattices and reals).
        rank: 0 for a table, 1 for a lattice, 2 for a real; a parent may not have a higher rank than its child.
        weight: of the rows (n,).
        score: 'bic' or 'bdeu'.
        prior_rows: the s of BDeu.
        edge_cost: what each edge costs besides its parameters.
    """

    def __init__(self, z, levels, rank, weight=None, score="bic", prior_rows=10.0, edge_cost=0.0):
        self.n, self.D = z.shape
        self.levels, self.rank = np.asarray(levels), np.asarray(rank)
        self.weight = None if weight is None else np.asarray(weight, dtype=np.float64)
        self.rows = float(self.n if weight is None else self.weight.sum())
        self.score, self.prior_rows, self.edge_cost = score, prior_rows, edge_cost
        self.tables, self.normals = np.flatnonzero(self.levels), np.flatnonzero(self.levels == 0)
        self.place = np.zeros(self.D, dtype=int)  # of a column among its group
        self.place[self.tables], self.place[self.normals] = range(len(self.tables)), range(len(self.normals))
        self.z = z
        flat = np.ascontiguousarray(np.nan_to_num(z[:, self.tables]).T.astype(np.int32))
        self.codes = dict(zip(self.tables.tolist(), flat, strict=True))  # of each table, (n,)
        self.starts = np.r_[0, np.cumsum(self.levels[self.tables])]
        exact = self.weight is None and self.n < 1 << 24  # counts that single precision holds
        self.precision = np.float32 if exact else np.float64
        self._indicators = None
        self._moments: dict[tuple, np.ndarray] = {}
        self._local: dict[tuple, float] = {}

    # ------------------------------------------------------------------------------------------------ information

    def information(self) -> np.ndarray:
        """Mutual information in nats (D, D), zero on the diagonal; of a pair, from the rows that have both.

        Between normals it is that of two Gaussians, between levels and a normal that of a Gaussian per level.
        """
        out = np.zeros((self.D, self.D))
        if len(self.tables):
            out[np.ix_(self.tables, self.tables)] = self._between_tables()
        if len(self.normals):
            x = self.z[:, self.normals]
            w = np.ones(self.n) if self.weight is None else self.weight
            known = ~np.isnan(x)
            x0, kw = np.where(known, x, 0.0), known * w[:, None]
            out[np.ix_(self.normals, self.normals)] = _gaussian_information(x0, known, kw)
            for t in self.tables:
                shared = self._of_table(t, x0, kw)
                out[t, self.normals] = out[self.normals, t] = shared
        np.fill_diagonal(out, 0.0)
        return np.maximum(out, 0.0)

    def _between_tables(self) -> np.ndarray:
        """From all pairs of counts at once: indicators of all levels but the last, times each other.

        The last level is what the others leave of the rows that are known, which halves the work for bits.
        """
        levels = self.levels[self.tables]
        gaps = bool(np.isnan(self.z[:, self.tables]).any())
        width = int((levels - 1).sum())
        h = np.zeros((self.n, width + (len(levels) if gaps else 1)), dtype=self.precision)
        known_at = width + np.arange(len(levels)) if gaps else np.full(len(levels), width)
        h[:, width:] = ~np.isnan(self.z[:, self.tables]) if gaps else 1
        self._mark(h)
        to, of, sign = [], [], []  # all levels as sums of the indicators
        for t, k in enumerate(levels):
            first, own = self.starts[t], np.arange(k - 1) + self.starts[t] - t
            to += [*range(first, first + k - 1), *[first + k - 1] * k]
            of += [*own, *own, known_at[t]]
            sign += [*[1] * (k - 1), *[-1] * (k - 1), 1]
        spread = sparse.csr_matrix((np.array(sign, dtype=np.float64), (to, of)), (self.starts[-1], h.shape[1]))
        product = h.T @ (h if self.weight is None else h * self.weight[:, None])
        pairs = spread @ (spread @ product.astype(np.float64)).T  # (L, L) counts
        own = np.repeat(np.arange(len(levels)), levels)
        if not gaps:  # margins are the same in every pair: sum n_ab log n_ab, minus those of the margins
            margin = pairs.diagonal()
            terms = _block_sums(xlogy(pairs, np.maximum(pairs, 1e-300)), self.starts)
            entropy = np.add.reduceat(xlogy(margin, np.maximum(margin, 1e-300)), self.starts[:-1])
            return (terms - entropy[:, None] - entropy + xlogy(self.rows, self.rows)) / self.rows
        rows = np.add.reduceat(pairs, self.starts[:-1], axis=1)  # (L, T): a level, where the other column is known
        total = np.add.reduceat(rows, self.starts[:-1], axis=0)  # (T, T)
        both = np.maximum(rows[:, own] * rows.T[own], 1e-300)
        ratio = np.maximum(pairs * total[np.ix_(own, own)], 1e-300) / both
        return _block_sums(np.where(pairs > 1e-9, pairs * np.log(ratio), 0.0), self.starts) / np.maximum(total, 1e-300)

    def _mark(self, h: np.ndarray) -> None:
        """Put the indicators of all levels but the last of each table into the first columns of h."""
        first = self.starts[:-1] - np.arange(len(self.tables))
        whole = len(self.tables) == self.D
        for level in range(int(self.levels.max()) - 1):
            some = np.flatnonzero(self.levels[self.tables] > level + 1)
            if whole and len(some) == self.D and (np.diff(first) == 1).all():
                np.equal(self.z, level, out=h[:, : self.D], casting="unsafe")
            else:
                h[:, first[some] + level] = self.z[:, self.tables[some]] == level

    def _of_table(self, t: int, x: np.ndarray, kw: np.ndarray) -> np.ndarray:
        """Information between table t and each normal (G,)."""
        k = self.levels[t]
        here = ~np.isnan(self.z[:, t])
        pick = sparse.csr_matrix((np.ones(here.sum()), (self.codes[t][here], np.flatnonzero(here))), (k, self.n))
        n, s, q = pick @ kw, pick @ (kw * x), pick @ (kw * x * x)  # (K, G)
        whole = _variance(n.sum(0), s.sum(0), q.sum(0))
        rows = np.maximum(n.sum(0), 1e-300)
        within = (q - s**2 / np.maximum(n, 1e-300) + POOLED_ROWS * whole) / (n + POOLED_ROWS)
        ratio = np.log(whole) - np.log(np.maximum(within, SMALLEST_VARIANCE))
        return 0.5 * (n * ratio).sum(0) / rows

    # -------------------------------------------------------------------------------------------------- local scores

    def local(self, child: int, parents: Sequence[int]) -> float:
        """The score of a family."""
        key = (child, *sorted(parents))
        if key not in self._local:
            self._local[key] = self._of(child, sorted(parents)) - self.edge_cost * len(parents)
        return self._local[key]

    def _of(self, child: int, parents: list[int]) -> float:
        discrete = tuple(p for p in parents if self.levels[p])
        if not self.levels[child]:
            return self._linear(child, discrete, [p for p in parents if not self.levels[p]])
        q, k = int(np.prod(self.levels[list(discrete)], dtype=np.float64)), int(self.levels[child])
        if q * k > MOST_CELLS:
            return -np.inf
        counts = self._count(self.configuration(discrete) * k + self.codes[child], q * k).reshape(q, k)
        if self.score == "bdeu":
            a, b = self.prior_rows / q, self.prior_rows / (q * k)
            cells = (gammaln(counts + b) - gammaln(b)).sum()
            return float(cells - (gammaln(counts.sum(1) + a) - gammaln(a)).sum())
        fit = _xlogx(counts).sum() - _xlogx(counts.sum(1)).sum()
        return float(fit - 0.5 * np.log(self.rows) * q * (k - 1))

    def configuration(self, tables: Sequence[int]) -> np.ndarray:
        """Which of the joint levels of some tables each row has (n,)."""
        out = np.zeros(self.n, dtype=np.int64)
        for t in tables:
            out *= self.levels[t]
            out += self.codes[t]
        return out

    def _count(self, which: np.ndarray, most: int) -> np.ndarray:
        return np.bincount(which, self.weight, most).astype(np.float64)

    def _linear(self, child: int, discrete: tuple, normal: list[int]) -> float:
        """BIC of a normal whose mean is linear in its normal parents, for each configuration of the discrete ones."""
        q = int(np.prod(self.levels[list(discrete)], dtype=np.float64))
        if q * (len(self.normals) + 1) ** 2 > MOST_CELLS * 4:
            return -np.inf
        m = self._moment_matrices(discrete, q)
        at = [0, *(1 + self.place[normal]), 1 + self.place[child]]
        m = m[:, at][:, :, at]
        n = m[:, 0, 0].copy()
        pooled = m.sum(0) / max(n.sum(), 1e-300)
        smooth = m + POOLED_ROWS * pooled
        a, b = smooth[:, :-1, :-1] + 1e-9 * np.eye(len(at) - 1), smooth[:, :-1, -1:]
        beta = np.linalg.solve(a, b)
        left = smooth[:, -1, -1] - (beta * b).sum((1, 2))
        variance = np.maximum(left / (n + POOLED_ROWS), SMALLEST_VARIANCE)
        own = m[:, -1, -1] - 2 * (beta * m[:, :-1, -1:]).sum((1, 2))
        own = own + np.einsum("qi,qij,qj->q", beta[:, :, 0], m[:, :-1, :-1], beta[:, :, 0])
        fit = -0.5 * (n * np.log(2 * np.pi * variance) + np.maximum(own, 0.0) / variance).sum()
        return float(fit - 0.5 * np.log(self.rows) * q * (len(normal) + 2))

    def _moment_matrices(self, discrete: tuple, q: int) -> np.ndarray:
        """Sums of v v' with v = (1, all normals), for each configuration: (Q, G+1, G+1)."""
        if discrete not in self._moments:
            v = np.concatenate([np.ones((self.n, 1)), self.z[:, self.normals]], 1)
            wv = v if self.weight is None else v * self.weight[:, None]
            which = self.configuration(discrete)
            order = np.argsort(which, kind="stable")
            ends = np.searchsorted(which[order], np.arange(q + 1))
            v, wv = v[order], wv[order]
            out = np.zeros((q, v.shape[1], v.shape[1]))
            for i in np.flatnonzero(np.diff(ends)):
                out[i] = v[ends[i] : ends[i + 1]].T @ wv[ends[i] : ends[i + 1]]
            if sum(m.size for m in self._moments.values()) + out.size > KEPT_MOMENTS:
                self._moments.clear()
            self._moments[discrete] = out
        return self._moments[discrete]

    def gains(self, child: int, parents: Sequence[int], allowed: np.ndarray) -> np.ndarray:
        """What each column would add to the score of a family as a further parent: (D,), minus infinity if none."""
        out = np.full(self.D, -np.inf)
        wanted = allowed.copy()
        wanted[[child, *parents]] = False
        own = self.local(child, parents)
        if not self.levels[child]:
            for p in np.flatnonzero(wanted):
                out[p] = self.local(child, [*parents, p]) - own
            return out
        columns = np.flatnonzero(wanted)
        k, q = int(self.levels[child]), int(np.prod(self.levels[list(parents)], dtype=np.float64))
        columns = columns[q * k * self.levels[columns].astype(float) <= MOST_CELLS]
        if not len(columns):
            return out
        if q * k > 4096:  # most cells are empty: one family after the other
            out[columns] = [self.local(child, [*parents, p]) - own for p in columns]
            return out
        which = self.configuration(sorted(parents)) * k + self.codes[child]
        w = np.ones(self.n, dtype=self.precision) if self.weight is None else self.weight
        pick = sparse.csr_matrix((w, (which, np.arange(self.n))), (q * k, self.n))
        counts = self._pairs(pick, columns)  # (Q K, L): each cell of the family, with each level of each column
        levels = self.levels[columns]
        starts = np.r_[0, np.cumsum(levels)[:-1]]
        sums = counts.reshape(q, k, -1).sum(1)
        if self.score == "bdeu":
            b = np.repeat(self.prior_rows / (q * k * levels), levels)
            cells = (gammaln(counts + b) - gammaln(b)).sum(0) - (gammaln(sums + k * b) - gammaln(k * b)).sum(0)
            out[columns] = np.add.reduceat(cells, starts) - own - self.edge_cost * (len(parents) + 1)
            return out
        fit = np.add.reduceat(_xlogx(counts).sum(0) - _xlogx(sums).sum(0), starts)
        cost = 0.5 * np.log(self.rows) * q * levels * (k - 1) + self.edge_cost * (len(parents) + 1)
        out[columns] = fit - cost - own
        return out

    def _pairs(self, pick: sparse.csr_matrix, columns: np.ndarray) -> np.ndarray:
        """Counts of some cells (of which `pick` holds the rows) with each level of some columns: (cells, L).

        Indicators of the last level of a column are left out: it has what the others leave.
        """
        if self._indicators is None:
            self._indicators = np.zeros((self.n, self.starts[-1] - len(self.tables)), dtype=self.precision)
            self._mark(self._indicators)
        place, levels = self.place[columns], self.levels[columns]
        first = self.starts[place] - place
        ends = np.cumsum(levels - 1)
        at = np.repeat(first - ends + levels - 1, levels - 1) + np.arange(ends[-1])
        most = 2 * len(at) > self._indicators.shape[1]  # cheaper than a copy of a part
        product = (pick @ (self._indicators if most else np.take(self._indicators, at, axis=1))).astype(np.float64)
        product = product[:, at] if most else product
        total = np.asarray(pick.sum(1), dtype=np.float64)
        if (levels == 2).all():
            return np.stack([product, total - product], 2).reshape(len(product), -1)
        counts = np.empty((len(product), int(levels.sum())))
        last = np.cumsum(levels) - 1
        inner = np.ones(counts.shape[1], dtype=bool)
        inner[last] = False
        counts[:, inner] = product
        some = levels > 1
        sums = np.zeros((len(product), len(columns)))
        sums[:, some] = np.add.reduceat(product, (ends - levels + 1)[some], axis=1) if some.any() else 0.0
        counts[:, last] = total - sums
        return counts


def _xlogx(counts: np.ndarray) -> np.ndarray:
    return xlogy(counts, np.maximum(counts, 1e-300))


def _block_sums(terms: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.add.reduceat(terms, starts[:-1], axis=0), starts[:-1], axis=1)


def _variance(n, s, q):
    n = np.maximum(n, 1e-300)
    return np.maximum(q / n - (s / n) ** 2, SMALLEST_VARIANCE)


def _gaussian_information(x: np.ndarray, known: np.ndarray, kw: np.ndarray) -> np.ndarray:
    """-log(1 - r^2) / 2 of each pair, over the rows that have both: x (n, G) with zeros where unknown."""
    k = known.astype(np.float64)
    n = np.maximum(kw.T @ k, 1e-300)
    mean = (kw * x).T @ k / n  # [i, j]: of i where j is known
    square = (kw * x * x).T @ k / n - mean**2
    cross = (kw * x).T @ x / n - mean * mean.T
    r2 = cross**2 / np.maximum(square * square.T, SMALLEST_VARIANCE**2)
    return -0.5 * np.log(np.maximum(1 - r2, SMALLEST_VARIANCE))
