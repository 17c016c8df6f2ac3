r"""Bayesian networks: a conditional per column, given its parents in a directed acyclic graph.

    p(x) = prod_d p(x_d | x_pa(d))

    levels with parents of levels     a table,                 P(x_d = k | q) = (c_qk + a p_k) / (c_q + a)
    a real, a lattice (a count)       a linear regression,     N(b_q + w_q' u, s_q^2), discretised on a lattice
    any column, any parents           a net with a head,       'net'

q is the configuration of the parents that have levels, u the values of the others, a = `prior` the pseudo-rows that
each configuration owns (``_conditionals.py``). The graph is given, or the best tree (Chow and Liu), or found by hill
climbing on a score (``_structure.py``). Missing cells are integrated out exactly, by variable elimination and by the
closed form of the normal (``_incomplete.py``), and EM fits to rows that have some.

Where cells are missing while a graph is sought, a tree comes first: it is fitted by EM, completes the rows by a draw,
and the search goes on from there.

References: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988. Chow and Liu, Approximating discrete
probability distributions with dependence trees, 1968. Koller and Friedman, Probabilistic Graphical Models, 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.base import Module, Traits
from plausible.errors import DataError
from plausible.families.direct import _structure
from plausible.families.direct._network import Network, rank_of
from plausible.families.direct._scores import Statistics
from plausible.neural import Neural
from plausible.options import OptionError, estimator, option
from plausible.randomness import seed_of
from plausible.space import Space
from plausible.training import Events, History, count, em, run
from plausible.transforms import Bins, Standardise
from plausible.transforms.bins import RULES

STRUCTURES = ("hill_climbing", "tree", "independent", "full")
FEW_COLUMNS = 50  # that a search has time to start for again
RESTARTS = 10
SEARCHED_ROWS = 100_000  # that decide on a graph, at most
SEARCHED_CELLS = 10_000_000  # of those that hill climbing counts again and again
FEWEST_ROWS = 5000
TOLERANCE = 1e-5  # nats a row by which an iteration of EM must improve the fit for another to follow
TREE_ITERATIONS = 10  # of EM, before a tree completes the rows of a search


@estimator
class BayesNet(Neural):
    """Bayesian network of tables, linear-Gaussian conditionals or nets, its graph given or learned; exact.

    References: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988; Chow and Liu, 1968; Koller and Friedman,
    Probabilistic Graphical Models, 2009.

    Examples:
        >>> import numpy as np, pandas as pd, plausible as pl
        >>> rng = np.random.default_rng(0)
        >>> rain = rng.random(5000) < 0.3
        >>> wet = rng.random(5000) < np.where(rain, 0.9, 0.1)
        >>> slip = rng.random(5000) < np.where(wet, 0.4, 0.05)
        >>> model = pl.BayesNet(structure={"wet": ["rain"], "slip": ["wet"]})
        >>> model = model.fit(pd.DataFrame({"rain": rain, "wet": wet, "slip": slip}))
        >>> model.edges_, model.n_parameters_
        ([('rain', 'wet'), ('wet', 'slip')], 5)
        >>> float(np.exp(model.log_prob(pd.DataFrame({"rain": [True], "wet": [None], "slip": [True]}))[0]).round(2))
        0.1
    """

    structure: str | dict | list = option(
        "hill_climbing",
        "the graph: found by hill climbing, the best 'tree', none, all earlier columns; or {child: [parents]}, or a "
        "list of edges 'parent>child'",
        choices=STRUCTURES,
    )
    conditionals: str = option(
        "auto",
        "'table' cuts reals and counts into bins; 'linear' takes regressions for them; 'net' a net for every column; "
        "'auto' is linear, with nets where levels have numbers as parents",
        choices=("auto", "table", "linear", "net"),
    )
    prior: float = option(1.0, "pseudo-rows, like all rows, that each configuration of parents owns", low=0)
    criterion: str = option(
        "auto", "score of a search; 'auto' is 'bdeu' where all columns have levels", choices=("auto", "bic", "bdeu")
    )
    bdeu_rows: float = option(4.0, "pseudo-rows of the prior of 'bdeu'", above=0)
    max_parents: int = option(8, "parents of a column, at most, in a search", low=1)
    restarts: int | None = option(
        None, "searches from the best graph without half of its edges; None is 10 up to 50 columns, none beyond", low=0
    )
    bins: str | int = option(16, "number of bins of 'table', or the rule that chooses it", low=1, choices=RULES)
    hidden: tuple[int, ...] = option((32,), "widths of the hidden layers of each net", low=1)
    components: int = option(5, "mixture components of the numbers that have nets", low=1)

    traits = Traits(density="exact", missing=True, given="exact", streams=True)

    @property
    def parents_(self) -> dict[str, list[str]]:
        """The parents of each column."""
        check_is_fitted(self, "module_")
        names = self.module_.names
        return {names[d]: [names[p] for p in of] for d, of in enumerate(self.module_.parents)}

    @property
    def edges_(self) -> list[tuple[str, str]]:
        """All edges (parent, child)."""
        return [(parent, child) for child, parents in self.parents_.items() for parent in parents]

    def _transforms(self, space: Space):
        return [Bins(self.bins)] if self.conditionals == "table" else [Standardise()]

    def _device(self) -> torch.device:
        return super()._device() if self.conditionals == "net" else torch.device("cpu")

    def _held_out_share(self) -> float:
        return self.validation_fraction if self._with_net(self.space_) else 0.0

    def _given(self, space: Space) -> list[list[int]] | None:
        """The parents of each column, where the argument says so."""
        if isinstance(self.structure, str) and self.structure in STRUCTURES:
            if self.structure == "full":
                return _structure.complete([rank_of(c) for c in space.columns])
            return [[] for _ in space.columns] if self.structure == "independent" else None
        edges = [self.structure] if isinstance(self.structure, str) else self.structure
        if not isinstance(edges, (Mapping, Sequence)):
            raise OptionError(
                f"BayesNet(structure={edges!r}): expected {', '.join(map(repr, STRUCTURES))}, {{child: [parents]}} or "
                "a list of edges"
            )
        return _structure.given_parents(edges, [c.name for c in space.columns])

    def _with_net(self, space: Space) -> list[int]:
        """The columns whose conditional is a net."""
        if self.conditionals == "net":
            return list(range(space.dims))
        parents = self._given(space) if self.conditionals != "table" else None
        rank = [rank_of(c) for c in space.columns]
        found = [d for d, of in enumerate(parents or []) if rank[d] == 0 and any(rank[p] for p in of)]
        if found and self.conditionals == "linear":
            child = space.columns[found[0]].name
            parent = next(space.columns[p].name for p in parents[found[0]] if rank[p])
            raise DataError(
                f"column {child!r} has levels and {parent!r} is a number: that needs a net; turn the edge around, or "
                "take conditionals='auto' or 'table'"
            )
        return found

    def _build(self, space: Space, context_space: Space) -> Module:
        if self.conditionals == "table":  # a bin is a level, however many there are
            space = space.replace(replace(c, kind="categorical") if c.levels else c for c in space.columns)
        module = Network(space, self._with_net(space), self.hidden, self.components, self.prior)
        module.given = self._given(space)
        return module

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        index = torch.arange(len(train.x), device=train.x.device)
        z, weight = train.take(index).z.flatten(1), getattr(train, "weight", None)
        gaps = bool(z.isnan().any())
        if gaps and module.nets is not None:
            raise DataError(
                "nets cannot be fitted to rows with missing cells; take conditionals='linear' or 'table', or fill them"
            )
        module.look(z, weight)
        module.connect(self._parents(module, z, weight, rng))
        settings = {"batch_size": None, "rng": rng, "name": type(self).__name__}
        if gaps:
            module.start(z, weight)
            return run(em(module), train, epochs=self.epochs, tolerance=TOLERANCE, budget=self.budget, **settings)
        if module.nets is None or len(module.with_net) < module.dims:
            history = run(count(module), train, epochs=1, **settings)
            if module.nets is None:
                history.rows[-1]["loss"] = -float(_mean(module.log_prob(z), weight))
                return history
        return super()._train(module, train, held_out, rng)

    def _parents(self, module: Network, z, weight, rng) -> list[list[int]]:
        """The graph that was asked for."""
        if module.given is not None:
            return module.given
        rank = module.rank
        z, weight = _some(z, weight, SEARCHED_ROWS, rng)
        known = self._statistics(module, z, weight).information()
        tree = _structure.chow_liu(known, rank)
        if self.structure == "tree":
            return tree
        z, weight = _some(z, weight, max(SEARCHED_CELLS // module.dims, FEWEST_ROWS), rng)
        if bool(z.isnan().any()):
            module.connect(tree)
            module.start(z, weight)
            run(em(module), Events(z, None, weight, None, z.dtype), epochs=TREE_ITERATIONS, batch_size=None, rng=rng)
            z = module.sample_given(z, rng=rng)
        return self._climb(self._statistics(module, z, weight), known, tree, rng)

    def _statistics(self, module, z, weight) -> Statistics:
        rank = module.rank
        levels = [0 if r else k for r, k in zip(rank, module.n_levels, strict=True)]
        criterion = ("bic" if any(rank) else "bdeu") if self.criterion == "auto" else self.criterion
        if criterion == "bdeu" and any(rank):
            raise OptionError("criterion='bdeu' needs columns of levels; take 'bic', or conditionals='table'")
        w = None if weight is None else weight.cpu().numpy()
        return Statistics(z.cpu().double().numpy(), levels, rank, w, criterion, self.bdeu_rows, np.log(len(rank)))

    def _climb(self, scores, known: np.ndarray, tree, rng) -> list[list[int]]:
        """From no edges and from the tree, then again from the best graph without half of its edges."""
        few = len(tree) <= FEW_COLUMNS
        settings = {"allowed": _structure.allowed(known, scores.rank), "max_parents": self.max_parents}
        starts = [[[] for _ in tree], tree] if few else [tree]
        best = max((_structure.hill_climb(scores, s, **settings) for s in starts), key=lambda found: found[1])
        draw = np.random.default_rng(seed_of(rng))
        for _ in range((RESTARTS if few else 0) if self.restarts is None else self.restarts):
            start = [[p for p in of if draw.random() < 0.5] for of in best[0]]
            best = max(best, _structure.hill_climb(scores, start, **settings), key=lambda found: found[1])
        return best[0]


def _some(z: torch.Tensor, weight: torch.Tensor | None, most: int, rng: torch.Generator):
    """Some of the rows, drawn at random, with their weights; all of them if they are not too many."""
    if len(z) <= most:
        return z, weight
    rows = torch.randperm(len(z), generator=rng, device=rng.device)[:most].to(z.device)
    return z[rows], None if weight is None else weight[rows]


def _mean(x: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
    return x.mean() if w is None else (x * w).sum() / w.sum()
