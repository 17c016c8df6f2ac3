"""A mixture of kernels, a kernel on every row: log_prob, draws and marginals. Formulas stand in `kernel_density.py`."""

from __future__ import annotations

import math

import torch

from plausible.base import Module
from plausible.families.direct import _kernels, _lattice
from plausible.families.direct._columns import patterns
from plausible.randomness import uniform
from plausible.space import Space

AT_ONCE = 8192  # rows to be scored at a time


class KernelMixture(Module):
    """Legend: n kernels, R real columns, G lattices, T columns of levels; q rows to be scored."""

    variable_buffers = ("centres", "log_weights", "spread")

    def __init__(self, space: Space, kernel: str, shape: str):
        super().__init__()
        columns = space.columns
        self.kernel, self.shape = kernel, shape
        self.dims = space.dims
        reals = [d for d, c in enumerate(columns) if c.kind == "real"]
        lattices = [d for d, c in enumerate(columns) if c.kind in ("ordinal", "count")]
        levels = [d for d, c in enumerate(columns) if c.kind in ("binary", "categorical") and c.n_levels > 1]
        self.n_levels = [columns[d].n_levels for d in levels]

        def buffer(name, values, dtype=torch.float64, persistent=False):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=persistent)

        for name, places in (("reals", reals), ("lattices", lattices), ("levels", levels)):
            buffer(name, places, torch.long)
        steps = [columns[d].step for d in lattices]
        buffer("step", steps)
        lows = [0.0 if columns[d].levels else columns[d].low for d in lattices]
        highs = [columns[d].n_levels - 1.0 if columns[d].levels else columns[d].high for d in lattices]
        buffer("low", [-math.inf if b is None else round(b / s) for b, s in zip(lows, steps, strict=True)])
        buffer("high", [math.inf if b is None else round(b / s) for b, s in zip(highs, steps, strict=True)])

        r = len(reals)
        self.register_buffer("factor", torch.eye(r, dtype=torch.float64))  # L
        buffer("width", [1.0] * len(lattices), persistent=True)  # h of the lattices, in steps
        buffer("most", [1 - 1 / k for k in self.n_levels])  # the a at which all levels are alike
        buffer("stray", [0.5 - 0.5 / k for k in self.n_levels], persistent=True)  # a
        self.register_buffer("centres", torch.zeros(1, space.dims, dtype=torch.float64))
        self.register_buffer("log_weights", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(1, dtype=torch.float64))  # s, of every kernel or of all

    @property
    def n_parameters(self) -> int:
        r = len(self.reals)
        own = {"scalar": min(r, 1), "diagonal": r, "full": r * (r + 1) // 2}[self.shape]
        return self.centres.numel() + own + len(self.width) + len(self.stray)

    @property
    def _like(self) -> float:
        """How much wider this kernel is than a Gaussian that smooths as much."""
        return _kernels.canonical(self.kernel, max(len(self.reals), 1))

    def _lattice(self, z: torch.Tensor) -> torch.Tensor:
        """Lattice columns in steps (n, G)."""
        return (z[:, self.lattices] / self.step).round()

    def _white(self, z: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """(L^-1 x_R)' for rows (n, D), or for those of the real columns that are known."""
        return torch.linalg.solve_triangular(self._root(known), z[:, self.reals[self._of(known)]].T, upper=False).T

    def _of(self, known: torch.Tensor | None):
        return slice(None) if known is None else known[self.reals]

    def _root(self, known: torch.Tensor | None) -> torch.Tensor:
        """The factor of H, or of its block of the known columns."""
        if known is None or known[self.reals].all():
            return self.factor
        part = known[self.reals]
        rows = self.factor[part]
        return rows[:, part] if self.shape != "full" else torch.linalg.cholesky(rows @ rows.T)

    def _discrete_features(self, z: torch.Tensor, centres: torch.Tensor, known: torch.Tensor | None = None):
        """a (q, F), b (n, F) and c (n,) of lattices and levels, and which features are of lattices.

        log K = a . b + c + a constant of the row, see `_row_constant`.
        """
        kinds = torch.ones(self.dims, dtype=torch.bool, device=z.device) if known is None else known
        g, t = kinds[self.lattices], kinds[self.levels]
        h = self.width[g]
        x, y = self._lattice(z)[:, g] / h, self._lattice(centres)[:, g] / h
        c = -0.5 * y.square().sum(1)
        for d in g.nonzero()[:, 0].tolist():
            c = c - self._log_z(self._lattice(centres)[:, d], d)
        a, b = [x], [y]
        for d in t.nonzero()[:, 0].tolist():
            k, column = self.n_levels[d], self.levels[d]
            gain = self._gain(d)
            i, j = z[:, column], centres[:, column]
            if k == 2:  # [i = j] = (1 + s_i s_j) / 2 with signs s
                a.append((gain / 2 * (2 * i - 1))[:, None])
                b.append((2 * j - 1)[:, None])
                c = c + gain / 2
            else:
                a.append(gain * torch.nn.functional.one_hot(i.long(), k).to(z))
                b.append(torch.nn.functional.one_hot(j.long(), k).to(z))
        return torch.cat(a, 1), torch.cat(b, 1), c, x.shape[1]

    def _gain(self, d: int) -> torch.Tensor:
        """How much a level in common adds to log K."""
        return (1 - self.stray[d]).log() - (self.stray[d] / (self.n_levels[d] - 1)).log()

    def _log_z(self, y: torch.Tensor, d: int) -> torch.Tensor:
        return _lattice.log_z(y, float(self.width[d]), float(self.low[d]), float(self.high[d]))

    def _row_constant(self, z: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """What of log K depends on the row and not on the kernel: (q,)."""
        kinds = torch.ones(self.dims, dtype=torch.bool, device=z.device) if known is None else known
        g, t = kinds[self.lattices], kinds[self.levels]
        k = 1 / (1 - self.most[t])
        x = self._lattice(z)[:, g] / self.width[g]
        return -0.5 * x.square().sum(1) + (self.stray[t] / (k - 1)).log().sum()

    def _features(self, z: torch.Tensor, known: torch.Tensor, direct: bool):
        """a, b, c and e of `log_sums`, and the constant of every row, for rows with these known cells.

        Args:
            direct: take real columns and lattices from differences, as products of features would lose digits.
        """
        a, b, c, g = self._discrete_features(z, self.centres, known)
        constant = self._row_constant(z, known)
        c = c + self.log_weights
        x, y, s = self._white(z, known), self._white(self.centres, known), self.spread
        r = x.shape[1]
        constant = constant + r * _kernels.log_constant(self.kernel) - self._root(known).diagonal().log().sum()
        c = c - r * s.log()
        if direct or self.kernel != "gaussian":
            x_g, y_g = a[:, :g], b[:, :g]
            if direct:
                c, constant = c + 0.5 * y_g.square().sum(1), constant + 0.5 * x_g.square().sum(1)
                a, b = a[:, g:], b[:, g:]

            def extra(rows, part):
                spread = s if len(s) == 1 else s[part]
                e = _kernels.log_kernel(self.kernel, x[rows], y[part], spread)
                return e + _kernels.log_kernel("gaussian", x_g[rows], y_g[part], s.new_ones(1)) if direct else e

            return a, b, c, extra, constant
        half = -0.5 * y.square().sum(1)
        if len(s) == 1:
            return torch.cat([a, x], 1), torch.cat([b, y], 1), c + half, None, constant - 0.5 * x.square().sum(1)
        inverse = 1 / s.square()
        a = torch.cat([a, x, -0.5 * x.square().sum(1, keepdim=True)], 1)
        return a, torch.cat([b, y * inverse[:, None], inverse[:, None]], 1), c + half * inverse, None, constant

    def _safe(self, z: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Which rows are near enough for products of features to keep their digits: (q,)."""
        if self.kernel != "gaussian":
            return torch.ones(len(z), dtype=torch.bool, device=z.device)
        g = known[self.lattices]
        x = self._white(z, known).square().sum(1) / self.spread.min().square()
        return x + (self._lattice(z)[:, g] / self.width[g]).square().sum(1) < _kernels.SAFE

    def _jobs(self, z: torch.Tensor):
        """(rows, known columns, features) for the rows of z (q, D), by pattern of missing cells; few rows at a time."""
        for known, rows in patterns(z):
            safe = self._safe(z[rows], known)
            for direct, part in ((False, rows[safe]), (True, rows[~safe])):
                for some in part.split(AT_ONCE) if len(part) else ():
                    yield some, known, self._features(torch.nan_to_num(z[some]), known, direct)

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        log_p = torch.empty(len(z), dtype=torch.float64, device=z.device)
        for rows, _, (*features, constant) in self._jobs(z):
            log_p[rows] = _kernels.log_sums(*features).logsumexp(1) + constant
        return log_p

    def sample(self, n, c=None, *, rng):
        u = uniform(rng, (n,), self.centres)
        below = self.log_weights.exp().cumsum(0)
        j = torch.searchsorted(below, u * below[-1], right=True).clamp_max(len(below) - 1)
        return self._draw(j, rng)

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z: choose a kernel by its weight at what is known, then draw the rest from it."""
        shape, z = z.shape, z.reshape(len(z), -1).double()
        j = torch.empty(len(z), dtype=torch.long, device=z.device)
        u = uniform(rng, (len(z), 2), z)
        for rows, _, (a, b, c, extra, _) in self._jobs(z):
            j[rows] = _kernels.draw_kernels(a, b, c, extra, u[rows])
        drawn = self._draw(j, rng)
        if self.shape == "full" and len(self.reals):
            drawn = self._pulled(z, drawn, j)
        return torch.where(z.isnan(), drawn, z).reshape(shape)

    def _draw(self, j: torch.Tensor, rng) -> torch.Tensor:
        """Draw from the kernels j (n,): rows (n, D)."""
        z = self.centres[j]
        s = self.spread if len(self.spread) == 1 else self.spread[j, None]
        z[:, self.reals] += _kernels.noise(self.kernel, len(j), len(self.reals), rng, z) @ self.factor.T * s
        if len(self.lattices):
            z[:, self.lattices] = _lattice.draw(self._lattice(z), self.width, self.low, self.high, rng) * self.step
        u = uniform(rng, (len(j), 2 * len(self.levels)), z)
        for d, (k, column) in enumerate(zip(self.n_levels, self.levels.tolist(), strict=True)):
            other = (u[:, 2 * d] * (k - 1)).floor().clamp_max(k - 2)
            other = other + (other >= z[:, column]).to(z)
            z[:, column] = torch.where(u[:, 2 * d + 1] < self.stray[d], other, z[:, column])
        return z

    def _pulled(self, z: torch.Tensor, drawn: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Make draws from whole Gaussians draws given what is known: add H_mo H_oo^-1 (x_o - what was drawn of it)."""
        x, y = z[:, self.reals], drawn[:, self.reals]
        covariance = self.factor @ self.factor.T
        for known, rows in patterns(x):
            missing = ~known
            if missing.any() and known.any():
                gain = torch.linalg.solve(covariance[known][:, known], covariance[known][:, missing])
                pull = (x[rows][:, known] - y[rows][:, known]) @ gain
                y[rows[:, None], missing.nonzero()[:, 0]] += pull
        drawn[:, self.reals] = y
        return drawn
