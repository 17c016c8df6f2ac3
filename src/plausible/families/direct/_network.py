r"""The module of a Bayesian network: its conditionals, density, counts and draws.

    p(x) = prod_d p(x_d | x_pa(d))

Rows that miss cells are the business of ``_incomplete.py``, the lay-out of the parameters that of ``_conditionals.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from plausible.base import Module
from plausible.families.direct import _structure
from plausible.families.direct._columns import Columns
from plausible.families.direct._conditionals import Layout, Nets
from plausible.families.direct._elimination import Factor
from plausible.families.direct._incomplete import Incomplete
from plausible.randomness import uniform
from plausible.space import MAX_SPAN, Column, Space


class Network(Module):
    """Legend: n rows, D columns; adjacent[c, p] says that p is a parent of c; `Layout` says what lies where."""

    variable_buffers = ("log_table", "intercept", "slope", "variance")

    def __init__(self, space: Space, with_net: Sequence[int], hidden, components: int, prior: float):
        super().__init__()
        self.dims, self.prior, self.with_net = space.dims, prior, list(with_net)
        self.names = [c.name for c in space.columns]
        self.columns = Columns(space)
        self.is_lattice = [c.discrete for c in space.columns]
        self.rank, self.n_levels = [rank_of(c) for c in space.columns], [c.n_levels for c in space.columns]
        self.first = {d: int(c.low or 0) for d, c in enumerate(space.columns) if c.levels}  # lowest possible level
        self.nets = Nets(space, with_net, hidden, components) if with_net else None
        d = space.dims
        self.register_buffer("adjacent", torch.zeros(d, d, dtype=torch.bool))
        self.register_buffer("reach", torch.zeros(2, d, dtype=torch.float64))  # lowest and highest value seen
        for name, shape in (("log_table", (0,)), ("intercept", (0,)), ("slope", (0, 0)), ("variance", (0,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self._layout: Layout | None = None
        self._sums: list[torch.Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    # ------------------------------------------------------------------------------------------------------ structure

    def connect(self, parents: Sequence[Sequence[int]]) -> None:
        """Set the parents of each column; the conditionals start as if nothing were known.

        Raises:
            DataError: the graph has a cycle, or a table would be too large.
        """
        _structure.order_of(parents, self.names)
        adjacent = torch.zeros_like(self.adjacent)
        for d, of in enumerate(parents):
            adjacent[d, list(of)] = True
        self.adjacent.copy_(adjacent)
        self._layout = None
        layout = self.layout
        device = self.adjacent.device
        self.log_table = torch.zeros(layout.n_cells, dtype=torch.float64, device=device)
        for d, start in layout.offset.items():
            self.log_table[start : start + layout.configurations[d] * layout.levels[d]] = -math.log(layout.levels[d])
        self.intercept = torch.zeros(layout.n_rows, dtype=torch.float64, device=device)
        self.slope = torch.zeros(layout.n_rows, layout.width, dtype=torch.float64, device=device)
        self.variance = torch.ones(layout.n_rows, dtype=torch.float64, device=device)

    def load_state_dict(self, *args, **kwargs):
        self._layout = None
        return super().load_state_dict(*args, **kwargs)

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            parents: list[list[int]] = [[] for _ in range(self.dims)]
            for child, parent in self.adjacent.nonzero().tolist():
                parents[child].append(parent)
            self._layout = Layout(self.columns, parents, frozenset(self.with_net), self.names)
            self._order = _structure.order_of(parents, self.names)
            self._scales = None
        return self._layout

    @property
    def parents(self) -> list[list[int]]:
        """The parents of each column, ascending."""
        return self.layout.parents

    @property
    def order(self) -> list[int]:
        """The columns, parents before children."""
        self.layout  # noqa: B018
        return self._order

    @property
    def n_parameters(self) -> int:
        return self.layout.n_parameters + (0 if self.nets is None else self.nets.n_parameters(self.adjacent))

    def table(self, d: int) -> torch.Tensor:
        """P(x_d | parents) with an axis of levels per parent, ascending, and the levels of d last."""
        layout = self.layout
        shape = [*(layout.levels[p] for p in layout.discrete[d]), layout.levels[d]]
        start = layout.offset[d]
        return self.log_table[start : start + math.prod(shape)].reshape(shape).exp()

    def set_table(self, d: int, table: torch.Tensor) -> None:
        """Set P(x_d | parents), its axes as those of `table`."""
        start = self.layout.offset[d]
        self.log_table[start : start + table.numel()] = table.double().flatten().log()

    # ------------------------------------------------------------------------------------------------------- counting

    def look(self, z, weight=None):
        x = z.flatten(1)
        self.reach[0] = torch.where(x.isnan(), torch.inf, x).amin(0)
        self.reach[1] = torch.where(x.isnan(), -torch.inf, x).amax(0)
        if self.nets is not None:
            self.nets.look(x)

    def start(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Start from the rows in which all columns of a family are known."""
        x = z.flatten(1).double()
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weight is None else weight
        self._sums = list(self.layout.count(x, w))
        self.update()

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Count complete rows, and what is expected of the others."""
        z = z.flatten(1).double()
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        whole = ~z.isnan().any(1)
        every = bool(whole.all())
        new = list(self.layout.count(*((z, w) if every else (z[whole], w[whole]))))
        if every:  # a single pass: its loss is that of the counts themselves, known at the end
            loss = torch.zeros((), dtype=torch.float64)
        else:
            *extra, log_p = Incomplete(self).expect(z[~whole], w[~whole])
            new = [a + b for a, b in zip(new, extra, strict=True)]
            loss = -((w[whole] * self.log_prob(z[whole])).sum() + (w[~whole] * log_p).sum()) / w.sum()
        self._sums = new if self._sums is None else [a + b for a, b in zip(self._sums, new, strict=True)]
        return loss

    def update(self) -> None:
        """Set all tables and regressions from what was counted."""
        counts, moments = self._sums
        self._sums = None
        self.log_table.copy_(self.layout.tables_from(counts, self.prior, self.first))
        for own, new in zip(
            (self.intercept, self.slope, self.variance),
            self.layout.regressions_from(moments, self.prior),
            strict=True,
        ):
            own.copy_(new)
        self._scales = None

    # -------------------------------------------------------------------------------------------------------- density

    def scales(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Intercepts (rows,), slopes (rows, P) and deviations (rows,) of all regressions."""
        self.layout  # noqa: B018
        if self._scales is None or self._scales.device != self.variance.device:
            place = self._layout.places[self._layout.of_row]
            spread = (self.variance - self.columns.rounding[place]).clamp_min(0).sqrt()
            self._scales = spread.maximum(self.columns.floor[place])
        return self.intercept, self.slope, self._scales

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        whole = ~z.isnan().any(1)
        if bool(whole.all()):
            return self._log_complete(z)
        out = z.new_empty(len(z))
        out[whole] = self._log_complete(z[whole])
        with torch.no_grad():
            out[~whole] = Incomplete(self).log_prob(z[~whole])
        return out

    def _log_complete(self, z: torch.Tensor) -> torch.Tensor:
        layout, columns = self.layout, self.columns
        parts = []
        for part in layout.pieces(len(z)):
            x = z[part].long()
            total = self.log_table[layout.cells(x)].sum(1)
            if len(layout.normals):
                intercept, slope, deviation = self.scales()
                r = layout.regressions(x)
                u = z[part][:, layout.near]  # (n, G, P)
                mean = intercept[r] + (slope[r] * u).sum(2)
                mu, s = z.new_zeros(len(x), columns.n_normals), z.new_ones(len(x), columns.n_normals)
                mu[:, layout.places], s[:, layout.places] = mean, deviation[r]
                total = total + columns.log_normal(z[part][:, columns.normals], mu, s)[:, layout.places].sum(1)
            parts.append(total)
        total = torch.cat(parts) if parts else z.new_zeros(len(z))
        if self.nets is not None:
            own = self.nets.weights[0].dtype
            total = total + self.nets.log_prob(z.to(own), self.adjacent).sum(1)
        return total

    def configuration(self, d: int, z: torch.Tensor) -> torch.Tensor:
        """Which of the joint levels of d's discrete parents each row has (n,)."""
        out = torch.zeros(len(z), dtype=torch.long, device=z.device)
        for p in self.layout.discrete[d]:
            out = out * self.layout.levels[p] + z[:, p].nan_to_num(0.0).long()
        return out

    def _law(self, d: int, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of normal d in each row."""
        intercept, slope, deviation = self.scales()
        r = self.layout.row[d] + self.configuration(d, z)
        near = self.layout.normal[d]
        return intercept[r] + (slope[r, : len(near)] * z[:, near]).sum(1), deviation[r]

    def term(self, d: int, z: torch.Tensor) -> torch.Tensor:
        """log p(x_d | parents) of complete families: (n,)."""
        layout = self.layout
        if d in self.with_net:
            return self.nets.log_prob_of(d, z.to(self.nets.weights[0].dtype), layout.parents[d]).double()
        if d in layout.levels:
            cell = layout.offset[d] + self.configuration(d, z) * layout.levels[d] + z[:, d].long()
            return self.log_table[cell]
        mean, deviation = self._law(d, z)
        g, columns = layout.place[d], self.columns
        mu, s = z.new_zeros(len(z), columns.n_normals), z.new_ones(len(z), columns.n_normals)
        mu[:, g], s[:, g] = mean, deviation
        return columns.log_normal(z[:, columns.normals], mu, s)[:, g]

    def factors(self) -> list[Factor]:
        """The tables, as factors of levels."""
        layout = self.layout
        out = []
        for d, start in layout.offset.items():
            scope = (*layout.discrete[d], d)
            shape = [layout.levels[v] for v in scope]
            out.append(Factor(scope, self.log_table[start : start + math.prod(shape)].reshape(shape), d))
        return out

    def grid(self, d: int) -> torch.Tensor:
        """All values column d may have; of a lattice, those within the range seen, twice widened."""
        layout = self.layout
        if d in layout.levels:
            return torch.arange(layout.levels[d], dtype=torch.float64, device=self.reach.device)
        g, c = layout.place[d], self.columns
        step = 2 * float(c.half_step[g])
        low, high = self.reach[:, d].tolist()
        wide = high - low + 10 * step
        low, high = max(low - wide, float(c.low[g])), min(high + wide, float(c.high[g]))
        start = 0.0 if math.isinf(float(c.low[g])) else float(c.low[g])
        first, last = math.ceil((low - start) / step - 1e-6), math.floor((high - start) / step + 1e-6)
        return start + step * torch.arange(first, last + 1, dtype=torch.float64, device=self.reach.device)

    # ---------------------------------------------------------------------------------------------------------- draws

    def sample(self, n, c=None, *, rng):
        z = torch.full((n, self.dims), torch.nan, dtype=torch.float64, device=self.adjacent.device)
        return self.fill(z, rng)

    def fill(self, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Draw the NaN cells of z (n, D) from their parents, which come first; what is known has no say in it."""
        layout, missing = self.layout, z.isnan()
        if not bool(missing.any()):
            return z
        z = z.clone()
        u = uniform(rng, (len(z), self.dims, 2), z)
        features = None
        if self.nets is not None:
            own = self.nets.weights[0].dtype
            features = self.nets.inputs.features(z.to(own))
        fresh = bool(missing.all())
        for d in self.order:
            rows = slice(None) if fresh else missing[:, d].nonzero()[:, 0]
            if not fresh and not len(rows):
                continue
            x, v = z[rows], u[rows, d]
            if d in self.with_net:
                shown = features[rows]
                value = self.nets.draw(d, shown, layout.parents[d], v.to(shown.dtype)).double()
            elif d in layout.levels:
                k, start = layout.levels[d], layout.offset[d]
                table = self.log_table[start : start + k * layout.configurations[d]].reshape(-1, k).exp().cumsum(1)
                below = table[:, : k - 1] / table[:, -1:]
                value = (v[:, :1] >= below[self.configuration(d, x)]).sum(1).double()
            else:
                mean, deviation = self._law(d, x)
                value = mean + deviation * torch.special.ndtri(v[:, 0].clamp(1e-16, 1 - 1e-16))
                value = self._on_lattice(d, value) if self.is_lattice[d] else value
            z[rows, d] = value
            if features is not None:
                head, _, place = self.nets.inputs.single(d)
                features[rows, place] = head.features(value[:, None].to(features.dtype))
        return z

    def _on_lattice(self, d: int, x: torch.Tensor) -> torch.Tensor:
        g, c = self.layout.place[d], self.columns
        start = torch.where(c.low[g].isinf(), 0.0, c.low[g])
        step = 2 * c.half_step[g]
        return (start + ((x - start) / step).round() * step).clamp(c.low[g], c.high[g])

    def sample_given(self, z, c=None, *, rng):
        """Draw the cells of z that are NaN from p(missing | known)."""
        shape = z.shape
        return Incomplete(self).sample(z.reshape(len(z), -1).double(), rng).reshape(shape)

    def likely_given(self, z, c=None):
        """Put the jointly most likely values into the cells of z that are NaN; of reals, the mode of their density."""
        shape = z.shape
        return Incomplete(self).likely(z.reshape(len(z), -1).double()).reshape(shape)


def rank_of(column: Column) -> int:
    """0 for a table, 1 for a lattice, 2 for a real: what may be a parent of what."""
    if column.levels and (column.kind != "ordinal" or column.n_levels <= MAX_SPAN):
        return 0
    return 1 if column.discrete else 2
