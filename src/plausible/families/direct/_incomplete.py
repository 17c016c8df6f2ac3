r"""Rows of a Bayesian network with missing cells: their probability, draws, most likely values, and what EM expects.

A missing column none of whose descendants is known is *barren*: it sums to one and is left out. Of the others,

* levels are summed out by variable elimination (``_elimination.py``). A normal or a net whose parents lack levels joins
  in as a table per row over those levels;
* reals whose discrete parents are known are jointly normal, x = (I - B)^-1 (b + e), and are integrated out in closed
  form;
* where a row lacks normals that matter and levels that decide about normals, each completion of those levels is taken
  for itself (so is each point of a missing lattice that has children), and the completions are added up.

What has no exact answer (a missing real among the parents of a net or of a lattice) is refused with a sentence.

Reference: Lauritzen, Propagation of probabilities, means and variances in mixed graphical association models, 1992 (the
conditional Gaussian networks for which this is exact).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from plausible.errors import DataError
from plausible.families.direct import _elimination
from plausible.families.direct._columns import LOG_SQRT_2PI
from plausible.families.direct._elimination import Factor
from plausible.randomness import normal, uniform

MOST_COMPLETIONS = 1 << 18  # of one row
IN_MEMORY = 1 << 22  # numbers of a piece of rows


class Incomplete:
    """Inference for rows (n, D) of a network; see the module's docstring.

    Args:
        net: offers `layout`, `columns`, `names`, `order`, `nets`, `term(d, z)`, `grid(d)`, `scales()`, `fill(z, rng)`.
    """

    def __init__(self, net):
        self.net, self.layout = net, net.layout
        self.levels = self.layout.levels
        D = len(self.layout.parents)
        with_net = set(net.nets.nodes) if net.nets is not None else set()
        self.tables = [d for d in range(D) if d in self.levels and d not in with_net]
        self.others = [d for d in range(D) if d not in self.tables]  # families that are no tables
        self.lattices = [d for d in self.others if d not in self.levels and net.is_lattice[d]]
        self.reals = [d for d in net.order if d not in self.levels and not net.is_lattice[d]]
        self.with_net = with_net
        self.D = D

    # --------------------------------------------------------------------------------------------------- what is asked

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log p of what is known of each row: (n, D) -> (n,)."""
        out = z.new_zeros(len(z))
        for rows in self._pieces(z):
            part = z[rows]
            alive = self._alive(part)
            gap = self._gap(part, alive)
            simple, hard = rows[~gap], rows[gap]
            if len(simple):
                factors, terms = self._factors(z[simple], alive[~gap])
                out[simple] = terms + self._evidence(factors, z[simple])
            for own, _, log_w in self._completions(z[hard], alive[gap]):
                out[hard[own]] = log_w.logsumexp(1)
        return out

    def sample(self, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Draw the missing cells of each row given the known ones."""
        out = z.clone()
        for rows in self._pieces(z):
            part = z[rows]
            alive = self._alive(part)
            gap = self._gap(part, alive)
            if not bool(gap.all()):
                known = part[~gap]
                factors, _ = self._factors(known, alive[~gap])
                drawn = _elimination.sample(factors, known, rng=rng) if factors else known
                out[rows[~gap]] = torch.where(alive[~gap], drawn, known)
            hard = rows[gap]
            for own, completed, log_w in self._completions(part[gap], alive[gap]):
                p = log_w.softmax(1).cumsum(1)
                pick = (uniform(rng, (len(p), 1), p) * p[:, -1:] >= p[:, :-1]).sum(1)
                chosen, here = completed[torch.arange(len(p)), pick], alive[gap][own]
                factors, _ = self._factors(chosen, here, reals=False)
                drawn = _elimination.sample(factors, chosen, rng=rng) if factors else chosen
                chosen = self._gaussian(torch.where(here, drawn, chosen)).draw(rng)
                out[hard[own]] = torch.where(here, chosen, completed[:, 0])
            out[rows] = torch.where(part.isnan() & ~alive, torch.nan, out[rows])
        return self.net.fill(out, rng)

    def likely(self, z: torch.Tensor) -> torch.Tensor:
        """Put the jointly most likely values into the missing cells; of reals, the mode of the joint density."""
        out = z.clone()
        everything = torch.ones_like(z, dtype=torch.bool)
        for rows in self._pieces(z):
            part, alive = z[rows], everything[rows]
            gap = self._gap(part, alive)
            if not bool(gap.all()):
                known = part[~gap]
                factors, _ = self._factors(known, alive[~gap])
                out[rows[~gap]] = _elimination.maximise(factors, known) if factors else known
            hard = rows[gap]
            for own, completed, log_w in self._completions(part[gap], alive[gap], modes=True):
                out[hard[own]] = completed[torch.arange(len(log_w)), log_w.argmax(1)]
        return out

    def expect(self, z: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Expected counts of all tables, expected moments of all regressions, and log p of each row."""
        counts, moments = self.layout.count(z[:0], w[:0])
        out = z.new_zeros(len(z))
        for rows in self._pieces(z):
            part, weight = z[rows], w[rows]
            alive = self._alive(part)
            gap = self._gap(part, alive)
            simple, hard = rows[~gap], rows[gap]
            if len(simple):
                known, own = part[~gap], weight[~gap]
                factors, terms = self._factors(known, alive[~gap])
                out[simple] = terms + self._count_tables(counts, factors, known, own)
                for d in self.others:
                    self._count_regression(moments, d, factors, known, own * alive[~gap][:, d])
            for own, completed, log_w in self._completions(part[gap], alive[gap]):
                log_p = log_w.logsumexp(1, keepdim=True)
                out[hard[own]] = log_p[:, 0]
                share = ((log_w - log_p).exp() * weight[gap][own][:, None]).flatten()
                kept = share > 0
                x, share = completed.flatten(0, 1)[kept], share[kept]
                here = alive[gap][own].repeat_interleave(log_w.shape[1], 0)[kept]
                factors, _ = self._factors(x, here, reals=False)
                self._count_tables(counts, factors, x, share)
                mean, covariance = self._gaussian(x).conditional()
                for d in self.others:
                    self._add_moments(moments, d, torch.where(here, mean, x), share * here[:, d], covariance)
        return counts, moments, out

    # ---------------------------------------------------------------------------------------------- which case it is

    def _pieces(self, z: torch.Tensor) -> Iterator[torch.Tensor]:
        size = max(IN_MEMORY // max(self.D * 8, len(self.reals) ** 2 * 4, 1), 1)
        yield from torch.arange(len(z), device=z.device).split(size)

    def _alive(self, z: torch.Tensor) -> torch.Tensor:
        """Known cells and their ancestors: (n, D)."""
        alive = ~z.isnan()
        for d in reversed(self.net.order):
            for p in self.layout.parents[d]:
                alive[:, p] |= alive[:, d]
        return alive

    def _gap(self, z: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """Rows that lack normals which matter: (n,)."""
        normals = self.lattices + self.reals
        missing = z.isnan() & alive
        for d in self.others:
            bad = [p for p in self.layout.normal[d] if d in self.with_net or (d in self.lattices and p in self.reals)]
            bad += [d] if d in self.with_net and d not in self.levels else []
            for p in bad:
                if bool((alive[:, d] & missing[:, p]).any()):
                    of = f"the net of column {self.net.names[d]!r}" if d in self.with_net else f"{self.net.names[d]!r}"
                    raise DataError(
                        f"column {self.net.names[p]!r} is missing, and what follows for {of} has no closed form; "
                        "give it, or fit with edges that lead from levels to reals only (structure='hill_climbing')"
                    )
        return missing[:, normals].any(1) if normals else torch.zeros(len(z), dtype=torch.bool, device=z.device)

    # ---------------------------------------------------------------------------------------------------- elimination

    def _factors(self, z: torch.Tensor, alive: torch.Tensor, reals: bool = True) -> tuple[list[Factor], torch.Tensor]:
        """The tables, a table per row for every other family that lacks levels, and the sum of the complete terms."""
        factors = self.net.factors()
        terms = z.new_zeros(len(z))
        missing = z.isnan()
        for d in self.others:
            if not reals and d in self.reals:
                continue  # they are the Gaussian's
            own = [d] if d in self.levels else []
            live = alive[:, d] & ~missing[:, self.layout.normal[d]].any(1)
            if not own:
                live &= ~missing[:, d]
            lacking = [v for v in self.layout.discrete[d] + own if bool((missing[:, v] & live).any())]
            barren = missing[:, d] & ~live if own else torch.zeros_like(live)
            if own and d not in lacking and bool(barren.any()):
                lacking.append(d)
            if not lacking:
                if bool(live.any()):
                    terms[live] += self.net.term(d, z[live])
                continue
            shape = [self.levels[v] for v in lacking]
            log = z.new_zeros(len(z), math.prod(shape))
            full = _filled(z[live], lacking, shape)
            log[live] = self.net.term(d, full.flatten(0, 1)).reshape(len(full), math.prod(shape))
            if own:
                log[barren] = -math.log(self.levels[d])
            factors.append(Factor(tuple(lacking), log.reshape(len(z), *shape)))
        return factors, terms

    def _evidence(self, factors: list[Factor], z: torch.Tensor) -> torch.Tensor:
        return _elimination.log_evidence(factors, z) if factors else z.new_zeros(len(z))

    def _count_tables(self, counts, factors, z, w) -> torch.Tensor:
        """Add what is expected of the tables; return log p of the factors for each row."""
        if not factors:
            return z.new_zeros(len(z))
        expected, log_p = _elimination.expected_counts(factors, z, w)
        for d, table in zip(self.tables, expected, strict=False):
            start = self.layout.offset[d]
            counts[start : start + table.numel()] += table.flatten()
        return log_p

    def _count_regression(self, moments, d, factors, z, w) -> None:
        """Add the moments of a regression whose normals are known and whose discrete parents may be missing."""
        z, w, rows = z[w > 0], w[w > 0], w > 0
        lacking = [v for v in self.layout.discrete[d] if bool(z[:, v].isnan().any())]
        if not lacking:
            self._add_moments(moments, d, z, w)
            return
        some = [Factor(f.variables, f.log_table[rows], f.child) if _per_row(f) else f for f in factors]
        known = torch.stack([~z[:, v].isnan() for v in lacking]).all(0)
        self._add_moments(moments, d, z[known], w[known])
        some = [Factor(f.variables, f.log_table[~known], f.child) if _per_row(f) else f for f in some]
        z, w = z[~known], w[~known]
        log = _elimination.marginal(some, lacking, z).log_table.flatten(1)
        full = _filled(z, lacking, [self.levels[v] for v in lacking])
        self._add_moments(moments, d, full.flatten(0, 1), (log.softmax(1) * w[:, None]).flatten())

    def _add_moments(self, moments, d, z, w, covariance=None) -> None:
        """Add w v v' with v = (1, u, x_d) to the rows of column d; the reals of z vary by `covariance`, if given."""
        rows = w > 0
        z, w = z[rows], w[rows]
        if not len(z):
            return
        at = [*self.layout.normal[d], d]
        v = torch.cat([torch.ones_like(z[:, :1]), z[:, at]], 1)
        outer = v[:, :, None] * v[:, None, :]
        if covariance is not None:
            place = {real: i for i, real in enumerate(self.reals)}
            inner = [(i + 1, place[a]) for i, a in enumerate(at) if a in place]
            if inner:
                i, r = (torch.tensor(t) for t in zip(*inner, strict=True))
                outer[:, i[:, None], i] += covariance[rows][:, r[:, None], r]
        total = moments.new_zeros(self.layout.configurations[d], *outer.shape[1:])
        total.index_add_(0, self.net.configuration(d, z), outer * w[:, None, None])
        start = self.layout.row[d]
        to = torch.tensor([*range(len(at)), moments.shape[1] - 1], device=moments.device)
        moments[start : start + len(total), to[:, None], to] += total

    # ---------------------------------------------------------------------------------------------------- completions

    def _completions(self, z: torch.Tensor, alive: torch.Tensor, modes: bool = False) -> Iterator[tuple]:
        """Yield (rows, completed (m, C, D), log weights (m, C)): what stands in the way of the closed form, filled in.

        With `modes` all missing cells are filled with the most likely values, and the weights are theirs.
        """
        if not len(z):
            return
        needed = torch.zeros(self.D, dtype=torch.bool, device=z.device).expand(len(z), -1).clone()
        missing = z.isnan()
        for d in self.others:
            if d in self.lattices:
                needed[:, d] |= missing[:, d] & alive[:, d]
            for v in [*self.layout.discrete[d], *([d] if d in self.levels else [])]:
                needed[:, v] |= missing[:, v] & alive[:, d]
        patterns, which = torch.unique(needed, dim=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            nodes = pattern.nonzero()[:, 0].tolist()
            values = [self.net.grid(d) for d in nodes]
            size = math.prod(len(v) for v in values)
            if size > MOST_COMPLETIONS:
                named = ", ".join(repr(self.net.names[d]) for d in nodes[:6])
                raise DataError(
                    f"a row lacks {len(nodes)} columns ({named}) on which missing numbers depend: that makes {size:,} "
                    f"completions, more than the {MOST_COMPLETIONS:,} that are added up; give some of them"
                )
            grid = torch.cartesian_prod(*values).reshape(-1, len(nodes)) if nodes else z.new_zeros(1, 0)
            each = size * max(self.D, len(self.reals) ** 2 * 4)
            for own in (which == i).nonzero()[:, 0].split(max(IN_MEMORY // each, 1)):
                full = z[own][:, None].repeat(1, size, 1)
                full[:, :, nodes] = grid
                flat, here = full.flatten(0, 1), alive[own].repeat_interleave(size, 0)
                factors, terms = self._factors(flat, here, reals=False)
                law = self._gaussian(flat)
                if modes:
                    filled = _elimination.maximise(factors, flat) if factors else flat
                    terms = terms + self._of_tables(filled)
                    mean, _ = law.conditional(spread=False)
                    full = torch.where(filled.isnan(), mean, filled).reshape(full.shape)
                    terms = terms + law.log_density_at_mode()
                else:
                    terms = terms + self._evidence(factors, flat) + law.log_density()
                yield own, full, terms.reshape(len(own), size)

    def _of_tables(self, z: torch.Tensor) -> torch.Tensor:
        return sum((self.net.term(d, z) for d in self.tables), z.new_zeros(len(z)))

    def _gaussian(self, z: torch.Tensor) -> _Gaussian:
        return _Gaussian(self, z)


class _Gaussian:
    """The joint normal of the reals of each row, given levels and lattices; cells of z that are NaN are unknown.

    Legend: R reals in the order of the graph; U different configurations and patterns of the unknown.
    """

    def __init__(self, case: Incomplete, z: torch.Tensor):
        self.case, self.z = case, z
        net, layout, reals = case.net, case.layout, case.reals
        self.reals = torch.tensor(reals, dtype=torch.long, device=z.device)
        R = len(reals)
        place = {d: i for i, d in enumerate(reals)}
        self.x = z[:, self.reals]
        self.missing = self.x.isnan()
        if not R:
            return
        intercept, slope, deviation = net.scales()
        rows = torch.stack([layout.row[d] + net.configuration(d, z) for d in reals], 1)  # (n, R)
        b = intercept[rows]
        for i, d in enumerate(reals):
            for j, p in enumerate(layout.normal[d]):
                if p not in place:
                    b[:, i] += slope[rows[:, i], j] * z[:, p].nan_to_num(0.0)
        kinds, self.which = torch.unique(torch.cat([rows, self.missing.long()], 1), dim=0, return_inverse=True)
        rows, unknown = kinds[:, :R], kinds[:, R:].bool()
        B = torch.zeros(len(kinds), R, R, dtype=z.dtype, device=z.device)
        for i, d in enumerate(reals):
            for j, p in enumerate(layout.normal[d]):
                if p in place:
                    B[:, i, place[p]] = slope[rows[:, i], j]
        eye = torch.eye(R, dtype=z.dtype, device=z.device)
        self.A = torch.linalg.solve_triangular(eye - B, eye.expand_as(B), upper=False, unitriangular=True)
        self.deviation = deviation[rows]
        scaled = self.A * self.deviation[:, None, :]
        self.S = scaled @ scaled.mT
        self.mean = (self.A[self.which] @ b[:, :, None])[:, :, 0]
        here = (~unknown).to(z.dtype)
        self.cholesky = torch.linalg.cholesky(here[:, :, None] * self.S * here[:, None, :] + torch.diag_embed(1 - here))
        self.n_known = (~self.missing).sum(1)

    def log_density(self) -> torch.Tensor:
        """log density of the known reals (n,)."""
        if not len(self.reals):
            return self.z.new_zeros(len(self.z))
        residual = torch.where(self.missing, 0.0, self.x - self.mean)[:, :, None]
        white = torch.linalg.solve_triangular(self.cholesky[self.which], residual, upper=False)[:, :, 0]
        log_det = self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)[self.which]
        return -0.5 * white.square().sum(1) - log_det - self.n_known * LOG_SQRT_2PI

    def log_density_at_mode(self) -> torch.Tensor:
        """log density of the known reals and of the unknown ones at their conditional means (n,)."""
        if not len(self.reals):
            return self.z.new_zeros(len(self.z))
        # det S = det S_oo det S_m|o, and det S is the product of the variances.
        log_det = self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)[self.which]
        spread = self.deviation.log().sum(1)[self.which] - log_det
        return self.log_density() - spread - self.missing.sum(1) * LOG_SQRT_2PI

    def _foretold(self, residual: torch.Tensor) -> torch.Tensor:
        """S_.o S_oo^-1 of residuals (n, R), zero where unknown."""
        solved = torch.cholesky_solve(residual[:, :, None], self.cholesky[self.which])
        return (self.S[self.which] @ solved)[:, :, 0]

    def conditional(self, spread: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows with unknown reals at their conditional means, and the conditional covariances (n, R, R)."""
        if not len(self.reals):
            return self.z, None
        residual = torch.where(self.missing, 0.0, self.x - self.mean)
        out = self._with(torch.where(self.missing, self.mean + self._foretold(residual), self.x))
        if not spread:
            return out, None
        here = (~self.missing).to(self.z.dtype)
        S = self.S[self.which]
        across = here[:, :, None] * S
        left = S - across.mT @ torch.cholesky_solve(across, self.cholesky[self.which])
        return out, left * (1 - here[:, :, None]) * (1 - here[:, None, :])

    def draw(self, rng: torch.Generator) -> torch.Tensor:
        """Draw the unknown reals: a draw of all, moved by what its known ones are off (Hoffman and Ribak, 1991)."""
        if not len(self.reals):
            return self.z
        noise = normal(rng, tuple(self.x.shape), self.x) * self.deviation[self.which]
        drawn = self.mean + (self.A[self.which] @ noise[:, :, None])[:, :, 0]
        moved = drawn + self._foretold(torch.where(self.missing, 0.0, self.x - drawn))
        return self._with(torch.where(self.missing, moved, self.x))

    def _with(self, x: torch.Tensor) -> torch.Tensor:
        out = self.z.clone()
        out[:, self.reals] = x
        return out


def _filled(z: torch.Tensor, columns: list[int], levels: list[int]) -> torch.Tensor:
    """Every combination of levels of some columns, in place of what stands there: (n, D) -> (n, C, D)."""
    grid = torch.cartesian_prod(*(torch.arange(k, device=z.device) for k in levels)).reshape(-1, len(columns)).to(z)
    out = z[:, None].repeat(1, len(grid), 1)
    out[:, :, columns] = grid
    return out


def _per_row(f: Factor) -> bool:
    return f.log_table.ndim > len(f.variables)
