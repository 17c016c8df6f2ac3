r"""A density for each class: naive Bayes, and Bayes' rule's generative half for any other density.

    p(x | c) = p_c(x),    naively    p_c(x) = prod_d p_cd(x_d)

c is a class: a label, or a combination of several. p_c is a density of the family `density`, fitted to the examples of
the class; with the product of one-dimensional densities, the default, this is naive Bayes. A combination of labels of
which there is no example has the density of all examples. Without a context there is a single class. The other half,
p(c | x) by Bayes' rule, is `plausible.BayesClassifier`.

The classes share the transforms to model space, such as the bins of histograms, so that their densities are made alike.

References: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.2. Hastie, Tibshirani and Friedman, The
Elements of Statistical Learning, 2009, section 6.6.3.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible import registry
from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.options import OptionError, estimator, option
from plausible.space import Space
from plausible.training import Events, History

MOST_CLASSES = 1000


class _PerClass(Module):
    """Legend: `parts` has a density for each of the K classes; `levels` those of each label that makes up a class."""

    def __init__(self, parts: list[Module], levels: list[int]):
        super().__init__()
        self.levels = levels
        self.parts = nn.ModuleList(parts)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def n_parameters(self) -> int:
        return sum(part.n_parameters for part in self.parts)

    def classes(self, n: int, c: torch.Tensor | None) -> torch.Tensor:
        """Return the class (n,) that features c (n, F) of the labels encode; zero without a context.

        Raises:
            DataError: a label is missing.
        """
        if c is None:
            return torch.zeros(n, dtype=torch.long)
        k, start = torch.zeros(len(c), dtype=torch.long, device=c.device), 0
        for levels in self.levels:
            width = 1 if levels == 2 else levels  # a sign for two levels, one-hot beyond
            block = c[:, start : start + width]
            if (block == 0).all(1).any():
                row = int((block == 0).all(1).nonzero()[0])
                raise DataError(f"the label of example {row} is missing; leave unlabelled examples out")
            k = k * levels + (block[:, 0] > 0 if levels == 2 else block.argmax(1))
            start += width
        return k

    def _each(self, n: int, c: torch.Tensor | None) -> list[tuple[Module, torch.Tensor]]:
        """(density, rows of its class) of every class that has any."""
        k = self.classes(n, c)
        return [(self.parts[j], (k == j).nonzero()[:, 0]) for j in k.unique().tolist()]

    def log_prob(self, z, c=None, rng=None):
        log_p = torch.empty(len(z), dtype=torch.float64, device=z.device)
        for part, rows in self._each(len(z), c):
            log_p[rows] = part.log_prob(z[rows], None, rng).double()
        return log_p

    def sample(self, n, c=None, *, rng):
        drawn = [(rows, part.sample(len(rows), rng=rng)) for part, rows in self._each(n, c)]
        return _in_place(n, drawn)

    def sample_given(self, z, c=None, *, rng):
        return _in_place(len(z), [(rows, part.sample_given(z[rows], rng=rng)) for part, rows in self._each(len(z), c)])


def _in_place(n: int, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    out = parts[0][1].new_empty(n, *parts[0][1].shape[1:])
    for rows, values in parts:
        out[rows] = values
    return out


@estimator
class NaiveBayes(Generative):
    """A density per class, p(x | c): by default the product of its columns; exact, also with missing cells.

    Give the labels as the context. References: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.2.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = pl.NaiveBayes(random_state=0).fit(X, context=y)
        >>> model.sample(2, context=[0], random_state=0).shape
        (2, 4)
        >>> bool(model.log_prob(X[:1], context=[0]) > model.log_prob(X[:1], context=[1]))  # the first is of class 0
        True
    """

    density: str = option("independent", "of each class: a family whose likelihood is exact")

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series"}),
        context=True,
        missing=True,
        given="exact",
        dependence=False,
    )

    def _family(self) -> Generative:
        """An estimator of the densities.

        Raises:
            OptionError: there is no such family, or its density is not exact.
        """
        cls = registry.get(self.density)
        if cls.traits.density != "exact" or cls is type(self):
            exact = registry.capable(lambda f: f.traits.density == "exact" and f is not type(self))
            raise OptionError(f"density={self.density!r}: expected a family with an exact density: {', '.join(exact)}")
        return cls()

    def _look_at(self, X, space: Space) -> None:
        cannot = self._family().can_model(space)
        if cannot:
            raise DataError(cannot)
        super()._look_at(X, space)

    def _refuse_missing(self, x: torch.Tensor) -> None:
        family = self._family()
        family.space_ = self.space_
        family._refuse_missing(x)

    def _transforms(self, space: Space):
        return self._family()._transforms(space)

    def _levels(self) -> list[int]:
        """Return the number of levels of each label.

        Raises:
            DataError: the context is no label, or there are too many classes.
        """
        columns = () if self.context_space_ is None else self.context_space_.columns
        for column in columns:
            if column.kind not in ("binary", "categorical", "ordinal") or column.n_levels > MOST_CLASSES:
                raise DataError(
                    f"NaiveBayes has a density for each class, but context {column.name!r} is {column.kind}; "
                    "give labels, as strings if they are many numbers"
                )
        levels = [column.n_levels for column in columns]
        if math.prod(levels) > MOST_CLASSES:
            raise DataError(f"the context makes {math.prod(levels):,} classes; expected at most {MOST_CLASSES}")
        return levels

    def _build(self, space: Space, context_space: Space) -> Module:
        levels, family = self._levels(), self._family()
        family.space_, family.context_space_ = self.space_, None
        return _PerClass([family._build(space, Space((), (0,))) for _ in range(math.prod(levels))], levels)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        family = self._family().set_params(random_state=0)
        k = module.classes(len(train), train.c)
        whole = History(kept_epoch=1)
        for j, part in enumerate(module.parts):
            rows = (k == j).nonzero()[:, 0]
            enough = len(rows) > 0 and (train.weight is None or bool(train.weight[rows].sum() > 0))
            events = train.part(rows) if enough else train
            history = family._train(
                part, Events(events.x, None, events.weight, events.prepare, events.dtype), None, rng
            )
            whole.rows += history.rows if len(module.parts) == 1 else []
            whole.stopped, whole.kept_epoch = history.stopped, history.kept_epoch
        return whole
