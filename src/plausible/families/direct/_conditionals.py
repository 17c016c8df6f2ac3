r"""The conditionals of a Bayesian network: where their parameters lie, how they are counted, and nets in parallel.

A column of levels whose parents have levels has a table, P(x_d = k | q) for each configuration q of its parents. A
normal (a real; a lattice, that is a count or a fine ordinal) has a regression for each configuration of its discrete
parents,

    x_d | q, u  ~  N(b_q + w_q' u, s_q^2),      u its normal parents,

discretised on a lattice. Every configuration owns `prior` pseudo-rows that look like all rows of the column: counts and
moments of a configuration are shrunk towards those without discrete parents, the less the more rows it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from plausible.errors import DataError
from plausible.families.direct._columns import Columns
from plausible.heads import Heads
from plausible.nn import activation
from plausible.space import Space

MOST_PARAMETERS = 1 << 27  # of all tables together
MARGINAL_ROWS = 0.5  # pseudo-rows of each level of a column, over all
RIDGE = 1e-9  # of a regression: two parents may be equal
IN_CACHE = 1_000_000  # numbers of a piece of the rows


class Layout:
    """Where the parameters of each family lie: of tables in one vector, of regressions in rows.

    Args:
        columns: which columns are tables and which normals.
        parents: of each column, ascending.
        absent: columns whose conditionals are nets; they get no parameters here.
        names: of the columns, for messages.

    Attributes:
        discrete, normal: the parents of each column that have levels, and the others.
        configurations: the number of joint levels of the discrete parents of each column.
        tables (T,), normals (G,): columns that have a table and a regression.
        offset: where the table of a column starts; n_cells in all. row: the first row of a normal; n_rows in all.
        near (G, P): the normal parents of each normal, as columns, padded; used (G, P) where they are not padding.
    """

    def __init__(self, columns: Columns, parents: Sequence[Sequence[int]], absent=frozenset(), names=None):
        tables, normals = columns.tables.tolist(), columns.normals.tolist()
        self.levels = dict(zip(tables, columns.levels, strict=True))
        self.parents = [list(p) for p in parents]
        self.discrete = [[p for p in of if p in self.levels] for of in self.parents]
        self.normal = [[p for p in of if p not in self.levels] for of in self.parents]
        self.configurations = [math.prod(self.levels[p] for p in of) for of in self.discrete]
        self._tables = [d for d in tables if d not in absent]
        self._normals = [d for d in normals if d not in absent]
        self.offset, self.n_cells = _offsets(self._tables, lambda d: self.configurations[d] * self.levels[d])
        self.row, self.n_rows = _offsets(self._normals, lambda d: self.configurations[d])
        for d in (*self._tables, *self._normals):
            size = self.configurations[d] * self.levels.get(d, 1)
            if size > MOST_PARAMETERS or self.n_cells + self.n_rows > MOST_PARAMETERS:
                raise DataError(
                    f"the table of column {names[d] if names else d!r} would have {size:,} entries, of "
                    f"{self.n_cells + self.n_rows:,} in all; give it fewer parents, or take conditionals='net'"
                )
        device = columns.tables.device

        def tensor(values, dtype=torch.long):
            return torch.tensor(values, dtype=dtype, device=device)

        self.tables, self.normals = tensor(self._tables), tensor(self._normals)
        self.of_tables = self._strides(self._tables, tensor)
        self.of_normals = self._strides(self._normals, tensor)
        self.offsets, self.rows = tensor([self.offset[d] for d in self._tables]), tensor([*self.row.values()])
        self.sizes = tensor([self.levels[d] for d in self._tables])
        self.width = max((len(self.normal[d]) for d in self._normals), default=0)
        pad = [self.normal[d] + [0] * (self.width - len(self.normal[d])) for d in self._normals]
        self.near = tensor(pad).reshape(len(self._normals), self.width)
        mask = [[i < len(self.normal[d]) for i in range(self.width)] for d in self._normals]
        self.used = tensor(mask, torch.bool).reshape(len(self._normals), self.width)
        self.of_row = tensor([g for g, d in enumerate(self._normals) for _ in range(self.configurations[d])])
        self.place = {d: g for g, d in enumerate(normals)}  # among all normals of `columns`
        self.places = tensor([self.place[d] for d in self._normals])

    def _strides(self, nodes, tensor):
        """Discrete parents (m, P) of some columns and how much a level of each counts, padded with zeros."""
        width = max((len(self.discrete[d]) for d in nodes), default=0)
        of, stride = [], []
        for d in nodes:
            own, s = self.discrete[d], []
            for p in reversed(own):
                s.insert(0, math.prod(self.levels[x] for x in own[own.index(p) + 1 :]))
            pad = [0] * (width - len(own))
            of.append(own + pad)
            stride.append(s + pad)
        return tensor(of).reshape(len(nodes), width), tensor(stride).reshape(len(nodes), width)

    @property
    def n_parameters(self) -> int:
        tables = sum(self.configurations[d] * (self.levels[d] - 1) for d in self._tables)
        return tables + sum(self.configurations[d] * (len(self.normal[d]) + 2) for d in self._normals)

    def cells(self, x: torch.Tensor) -> torch.Tensor:
        """Which entry of the flat tables each row has: levels (n, D) -> (n, T)."""
        return self.offsets + _configuration(x, *self.of_tables) * self.sizes + x[:, self.tables]

    def regressions(self, x: torch.Tensor) -> torch.Tensor:
        """Which row of the regressions holds for each: levels (n, D) -> (n, G)."""
        return self.rows + _configuration(x, *self.of_normals)

    def pieces(self, n: int) -> list[slice]:
        """Cut n rows so that a piece stays small."""
        each = len(self._tables) * (1 + self.of_tables[0].shape[1]) + len(self._normals) * (self.width + 2) ** 2
        size = max(IN_CACHE // max(each, 1), 16)
        return [slice(start, start + size) for start in range(0, n, size)]

    # -------------------------------------------------------------------------------------------------- statistics

    def count(self, z: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells of the tables, and moments v v', v = (1, u, x_d), of each regression: (cells,), (rows, P + 2, P + 2).

        A family counts the rows that have all its columns.
        """
        counts = torch.zeros(self.n_cells, dtype=torch.float64, device=z.device)
        side = self.width + 2
        moments = torch.zeros(self.n_rows, side, side, dtype=torch.float64, device=z.device)
        for part in self.pieces(len(z)):
            x, w = z[part].nan_to_num(0.0).long(), weight[part, None]
            missing = z[part].isnan()
            gaps = bool(missing.any())
            if len(self._tables):
                cells = self.cells(x)
                own = w.expand_as(cells)
                if gaps:
                    own = own * ~(missing[:, self.tables] | _any(missing, *self.of_tables))
                counts += torch.bincount(cells.flatten(), own.flatten(), self.n_cells)
            if len(self._normals):
                own = w.expand(-1, len(self._normals))
                if gaps:
                    near = (missing[:, self.near] & self.used).any(2)
                    own = own * ~(missing[:, self.normals] | near | _any(missing, *self.of_normals))
                v = self.vectors(z[part].nan_to_num(0.0))
                outer = v[:, :, :, None] * (v * own[:, :, None])[:, :, None, :]
                moments.index_add_(0, self.regressions(x).flatten(), outer.flatten(0, 1))
        return counts, moments

    def vectors(self, z: torch.Tensor) -> torch.Tensor:
        """v = (1, u, x_d) of each normal, zero where u is padding: (n, G, P + 2)."""
        x = z[:, self.normals, None]
        return torch.cat([torch.ones_like(x), z[:, self.near] * self.used, x], 2)

    def tables_from(self, counts: torch.Tensor, prior: float, first: dict[int, int]) -> torch.Tensor:
        """log P(k | q) of all tables, flat; levels below the `first` of a column are impossible."""
        out = torch.empty_like(counts)
        for d in self._tables:
            k, start = self.levels[d], self.offset[d]
            own = counts[start : start + k * self.configurations[d]].reshape(-1, k)
            whole = own.sum(0) + MARGINAL_ROWS
            whole[: first[d]] = 0
            whole = whole / whole.sum()
            p = (own + prior * whole) / (own.sum(1, keepdim=True) + prior) if len(own) > 1 and prior else whole[None]
            if not prior and len(own) > 1:  # maximum likelihood; a configuration without rows is like all rows
                total = own.sum(1, keepdim=True)
                p = torch.where(total > 0, own / total.clamp_min(1e-300), whole)
            out[start : start + p.numel()] = p.log().flatten()
        return out

    def regressions_from(self, moments: torch.Tensor, prior: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Intercepts (rows,), slopes (rows, P) and variances (rows,) of all regressions."""
        g = len(self._normals)
        pooled = torch.zeros(g, *moments.shape[1:], dtype=moments.dtype, device=moments.device)
        pooled.index_add_(0, self.of_row, moments)
        pooled = pooled / pooled[:, :1, :1].clamp_min(1e-300)
        # Some share of a row at least, so that a configuration without any is like all rows.
        m = moments + max(prior, 1e-6) * pooled[self.of_row]
        n = m[:, 0, 0]
        padding = torch.diag_embed(torch.cat([torch.zeros_like(n[:, None]), (~self.used).double()[self.of_row]], 1))
        ridge = RIDGE * n[:, None, None] * torch.eye(self.width + 1, dtype=m.dtype, device=m.device)
        a, b = m[:, :-1, :-1] + padding * n[:, None, None], m[:, :-1, -1:]
        beta = torch.linalg.solve(a + ridge, b)
        left = m[:, -1, -1] + (beta * (a @ beta - 2 * b)).sum((1, 2))
        beta = beta[:, :, 0]
        return beta[:, 0].clone(), beta[:, 1:] * self.used[self.of_row], (left / n).clamp_min(0)


def _offsets(nodes, size) -> tuple[dict[int, int], int]:
    out, total = {}, 0
    for d in nodes:
        out[d] = total
        total += size(d)
    return out, total


def _any(missing: torch.Tensor, of: torch.Tensor, stride: torch.Tensor) -> torch.Tensor:
    """Whether a discrete parent is missing: (n, D) -> (n, m)."""
    return (missing[:, of] & (stride > 0)).any(2)


def _configuration(x: torch.Tensor, of: torch.Tensor, stride: torch.Tensor) -> torch.Tensor:
    if not of.shape[1]:
        return x.new_zeros(len(x), len(of))
    out = x[:, of[:, 0]] * stride[:, 0]
    for i in range(1, of.shape[1]):
        out += x[:, of[:, i]] * stride[:, i]
    return out


class Nets(nn.Module):
    """A net of its own for each of some columns, all in one pass; what each is shown is masked to its parents.

    Legend: N columns that have nets, F input features of all D columns, H hidden units of each net.
    """

    def __init__(self, space: Space, nodes: Sequence[int], hidden: Sequence[int], components: int):
        super().__init__()
        self.nodes = list(nodes)
        self.inputs = Heads(space, components)
        self.outputs = Heads(Space(tuple(space.columns[d] for d in nodes), (len(self.nodes),)), components)
        n, f = len(self.nodes), self.inputs.n_features
        slots = [i for head in self.outputs.heads for _ in range(head.d) for i in range(head.size)]
        self.most = max(head.size for head in self.outputs.heads)
        self.register_buffer("slot", torch.tensor(slots), persistent=False)
        self.register_buffer("node", torch.tensor(self.nodes), persistent=False)
        widths = [f, *hidden, self.most]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            scale = 1 / math.sqrt(min(a, 64) if i == 0 else a)
            last = i == len(widths) - 2
            shape = (a, n, b) if i == 0 else (n, a, b)
            self.weights.append(nn.Parameter((torch.rand(shape) * 2 - 1) * scale * (0.1 if last else 1.0)))
            self.biases.append(nn.Parameter(torch.zeros(n, b) if last else (torch.rand(n, b) * 2 - 1) * scale))
        self.nonlinearity = activation("elu")

    def look(self, z: torch.Tensor) -> None:
        """Start from the product of the columns."""
        marginal = self.outputs.marginal(z[:, self.node])
        with torch.no_grad():
            self.biases[-1][self.outputs.owner, self.slot] = marginal.to(self.biases[-1].dtype)

    def mask(self, adjacent: torch.Tensor) -> torch.Tensor:
        """Which features each net may see: (F, N), from adjacent[child, parent]."""
        return adjacent[self.node][:, self.inputs.source].T

    def log_prob(self, z: torch.Tensor, adjacent: torch.Tensor) -> torch.Tensor:
        """log p(x_d | parents) of each column that has a net: (n, D) -> (n, N)."""
        first = self.weights[0] * self.mask(adjacent)[:, :, None].to(z.dtype)
        h = (self.inputs.features(z) @ first.flatten(1)).unflatten(1, first.shape[1:]) + self.biases[0]
        for w, b in zip(self.weights[1:], self.biases[1:], strict=True):
            h = torch.bmm(self.nonlinearity(h).transpose(0, 1), w).transpose(0, 1) + b
        return self.outputs.log_prob(h[:, self.outputs.owner, self.slot], z[:, self.node])

    def _alone(self, d: int, features: torch.Tensor, seen: torch.Tensor) -> tuple[Heads, torch.Tensor]:
        """The head of column d, and its parameters (n, size) from the features (n, F), of which `seen` counts."""
        i = self.nodes.index(d)
        h = features[:, seen] @ self.weights[0][seen, i] + self.biases[0][i]
        for w, b in zip(self.weights[1:], self.biases[1:], strict=True):
            h = self.nonlinearity(h) @ w[i] + b[i]
        head, place, _ = self.outputs.single(i)
        return head, h[:, : place.stop - place.start]

    def seen(self, parents: Sequence[int]) -> torch.Tensor:
        """The places of some columns among the features."""
        return torch.isin(self.inputs.source, torch.tensor(list(parents), device=self.node.device)).nonzero()[:, 0]

    def log_prob_of(self, d: int, z: torch.Tensor, parents: Sequence[int]) -> torch.Tensor:
        """log p(x_d | parents) of one column: (n, D) -> (n,)."""
        head, params = self._alone(d, self.inputs.features(z), self.seen(parents))
        return head.log_prob(params, z[:, d : d + 1])[:, 0]

    def draw(self, d: int, features: torch.Tensor, parents: Sequence[int], u: torch.Tensor) -> torch.Tensor:
        """Draw column d by inversion of u (n, 2) from the features (n, F) of its parents; fill in its own features."""
        head, params = self._alone(d, features, self.seen(parents))
        x = head.sample(params, u[:, None])
        features[:, self.inputs.single(d)[2]] = head.features(x)
        return x[:, 0]

    def n_parameters(self, adjacent: torch.Tensor) -> int:
        """Weights that are not masked."""
        first = int(self.mask(adjacent).sum()) * self.weights[0].shape[2]
        own = torch.bincount(self.outputs.owner, minlength=len(self.nodes)).tolist()  # parameters of each head
        inner = sum(w[0].numel() for w in self.weights[1:-1]) + sum(b[0].numel() for b in self.biases[:-1])
        last = self.weights[-1].shape[1] + 1 if len(self.weights) > 1 else 1
        return first + sum(inner + k * last for k in own)
