r"""Independent columns, each a law with a name, by maximum likelihood.

    p(x) = prod_d p_{l_d}(x_d; theta_d),     theta_d = argmax sum_i w_i log p_{l_d}(x_id; theta),     n = sum_i w_i

``_laws.py`` lists the laws l and the names of their parameters theta; ``_law_fits.py`` fits them. With 'auto' the law
of a column is the one with the least criterion among those that have the column's kind (so that likelihoods are
relative to one measure) and allow all its values,

    BIC = k log n - 2 log L       or       AIC = 2 k - 2 log L,       k the number of free parameters,

and whose likelihood has a maximum there, not at a limit of the parameters.

Standard errors are the roots of the diagonal of the inverse observed Fisher information, -d^2 log L / d theta^2.
Missing cells are left out, which is exact, as the columns do not depend on each other.

References: Casella and Berger, Statistical Inference, 2002, chapters 3, 7 and 10. Akaike, 1974; Schwarz, Estimating the
dimension of a model, 1978.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct._law_fits import AT_LIMIT, NOTES, STREAMED, Fitted
from plausible.families.direct._laws import LAWS, Law
from plausible.families.direct._tally import Tally
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Column, Space
from plausible.training import Chunks, Events, History

KIND = {"binary": "level", "categorical": "level", "ordinal": "level", "count": "count", "real": "real"}
NAMES = tuple(dict.fromkeys(law.name for law in LAWS))
MOST = max(len(law.parameters) for law in LAWS)
FROM_LEVELS = frozenset({"categorical", "uniform"})  # laws that live in the table of probabilities
Wanted = tuple[str, float | None]  # the name of a law, and the n that came with it


class _NamedLaw(Module):
    """Legend: D columns, K levels of the column that has most, L laws.

    Buffers: law (D,) place in LAWS; parameters and errors (D, 3) in the user's units, NaN where there are fewer;
    p (D, K) of levels; summary (D, 4): rows n, mean log-likelihood, free parameters, place in NOTES; criteria (D, L) of
    all laws that were tried, NaN of the others.
    """

    def __init__(self, space: Space, wanted: list[Wanted], criterion: str):
        super().__init__()
        self.columns, self.wanted, self.criterion, self.keep = space.columns, wanted, criterion, True
        d, k = space.dims, max([1, *(c.n_levels for c in space.columns)])
        self.register_buffer("law", torch.zeros(d, dtype=torch.long))
        self.register_buffer("parameters_", torch.full((d, MOST), torch.nan, dtype=torch.float64))
        self.register_buffer("errors", torch.full((d, MOST), torch.nan, dtype=torch.float64))
        self.register_buffer("p", torch.zeros(d, k, dtype=torch.float64))
        self.register_buffer("summary", torch.zeros(d, 4, dtype=torch.float64))
        self.register_buffer("criteria", torch.full((d, len(LAWS)), torch.nan, dtype=torch.float64))
        self._tallies: list[Tally] | None = None

    @property
    def n_parameters(self) -> int:
        return int(self.summary[:, 2].sum())

    # ------------------------------------------------------------------------------------------------------- fit

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Add values to the tally of each column; in two halves it is the same as at once."""
        if self._tallies is None:
            self._tallies = [Tally(c.discrete, self.keep, c.n_levels) for c in self.columns]
        x = z.flatten(1).double().cpu().numpy()
        w = np.ones(len(x)) if weight is None else weight.double().cpu().numpy()
        for tally, column in zip(self._tallies, x.T, strict=True):
            tally.add(column, w)
        return torch.zeros((), dtype=torch.float64)

    def update(self) -> None:
        """Choose and fit the law of each column."""
        for d, (column, tally) in enumerate(zip(self.columns, self._tallies, strict=True)):
            if not tally.n:
                raise DataError(f"column {column.name!r} has no observed value with a positive weight; drop it")
            fitted = self._fit(column, tally, *self.wanted[d])
            scores = {i: self._score(f, tally.n) for i, f in fitted.items()}
            # At a limit the likelihood has no maximum, or a spike on values that repeat: no fit to be chosen.
            sound = [i for i, f in fitted.items() if f.note != AT_LIMIT] or list(fitted)
            best = min(sound, key=scores.__getitem__)
            self._note(d, best, fitted[best], tally)
            for i, score in scores.items():
                self.criteria[d, i] = score
        self._tallies = None

    def _fit(self, column: Column, tally: Tally, name: str, given: float | None) -> dict[int, Fitted]:
        """Fit the law that is wanted, or all that can be, to one column."""
        fitted = {}
        for i, law in _laws_of(column, name):
            found = law.fitted(tally, given, column.low)
            if isinstance(found, Fitted) and math.isfinite(found.log_lik):
                fitted[i] = found
            elif name != "auto":
                why = found if isinstance(found, str) else "has no likelihood on these values"
                raise DataError(f"column {column.name!r}: the law {name!r} {why}")
        if not fitted:
            raise DataError(f"column {column.name!r}: no law fits its values; it may hold a single one, drop it")
        return fitted

    def _score(self, fitted: Fitted, n: float) -> float:
        price = math.log(n) if self.criterion == "bic" else 2.0
        return price * fitted.n_free - 2 * n * fitted.log_lik

    def _note(self, d: int, law: int, fitted: Fitted, tally: Tally) -> None:
        k = len(fitted.values)
        self.law[d] = law
        self.parameters_[d, :k] = torch.tensor(fitted.values, dtype=torch.float64)
        self.errors[d, :k] = torch.tensor(fitted.errors, dtype=torch.float64)
        self.summary[d] = torch.tensor([tally.n, fitted.log_lik, fitted.n_free, fitted.note], dtype=torch.float64)
        if LAWS[law].kind == "level" and LAWS[law].name in FROM_LEVELS:
            if LAWS[law].name == "uniform":
                self.p[d, : tally.levels] = 1 / tally.levels
            else:
                values, weights = tally.sample
                self.p[d, torch.from_numpy(values).long()] = torch.from_numpy(weights / tally.n)

    # --------------------------------------------------------------------------------------------------- answers

    def _groups(self) -> list[tuple[Law, torch.Tensor, list[torch.Tensor]]]:
        """The laws in use, the columns (G,) of each and their parameters, a tensor (G,) each."""
        groups = []
        for i in self.law.unique().tolist():
            columns = (self.law == i).nonzero()[:, 0]
            groups.append((LAWS[i], columns, list(self.parameters_[columns, : len(LAWS[i].parameters)].T)))
        return groups

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        out = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for law, columns, parameters in self._groups():
            x = z[:, columns]
            known = ~x.isnan()
            if law.log_prob is None:
                log_p = self.p[columns].log()[torch.arange(len(columns)), x.nan_to_num().long()]
            else:
                log_p = torch.where(law.inside(x), law.log_prob(x, *parameters), -torch.inf)
            out += torch.where(known, log_p, 0.0).sum(1)
        return out

    def sample(self, n, c=None, *, rng):
        u = uniform(rng, (n, len(self.columns)), self.p)
        z = torch.empty_like(u)
        for law, columns, parameters in self._groups():
            v = u[:, columns]
            if law.quantile is None:
                below = self.p[columns].cumsum(1)  # (G, K)
                last = (self.p[columns] > 0).long().mul(torch.arange(self.p.shape[1], device=v.device)).amax(1)
                drawn = torch.searchsorted(below, v.T.contiguous(), right=True).T.minimum(last).double()
            else:
                v = v.clamp_min(1e-17).cpu().numpy()  # scipy puts zero below the support
                drawn = torch.from_numpy(law.quantile(v, *(p.cpu().numpy() for p in parameters))).to(z)
                drawn = drawn.clamp(*self._open(law))
            z[:, columns] = drawn
        return z

    @staticmethod
    def _open(law: Law) -> tuple[float, float]:
        """What draws are kept within: rounding must not put them on an end that the support does not hold."""
        if law.closed:
            return law.least, law.most
        return law.least + 1e-300, law.most if math.isinf(law.most) else law.most - 1e-16

    def sample_given(self, z, c=None, *, rng):
        """Draw what is missing; what is known tells nothing about it."""
        z = z.reshape(len(z), -1)
        return torch.where(z.isnan(), self.sample(len(z), rng=rng), z)

    def likely_given(self, z, c=None):
        """Put the mode of its law into every missing cell."""
        modes = torch.empty(len(self.columns), dtype=torch.float64, device=self.p.device)
        for law, columns, parameters in self._groups():
            modes[columns] = self.p[columns].argmax(1).double() if law.mode is None else law.mode(*parameters)
        z = z.reshape(len(z), -1)
        return torch.where(z.isnan(), modes, z)


def _laws_of(column: Column, name: str = "auto") -> list[tuple[int, Law]]:
    """The laws for a column, by their place in LAWS; of one name, or those that 'auto' chooses from."""
    found = [(i, law) for i, law in enumerate(LAWS) if law.kind == KIND[column.kind]]
    if column.kind != "binary":
        found = [(i, law) for i, law in found if law.name != "bernoulli"]
    if column.kind == "categorical":  # levels without an order
        found = [(i, law) for i, law in found if law.name != "binomial"]
    if name != "auto":
        return [(i, law) for i, law in found if law.name == name]
    if column.kind == "binary":
        return [(i, law) for i, law in found if law.name in ("bernoulli", "uniform")]
    return found


# ------------------------------------------------------------------------------------------------------- estimator


@estimator
class NamedLaw(Generative):
    """Independent columns with a named law each (Poisson, gamma, Student-t, ...), by maximum likelihood; exact.

    After `fit`, ``summary_`` is a DataFrame with the value and the standard error of every parameter, in the units of
    the data; ``laws_`` says which law each column has and how well it fits; ``criteria_`` holds the criterion of every
    law that was tried. Small integers are taken as counts rather than as levels, unless `space` says otherwise.

    The ends of a uniform law are the smallest and the largest value seen; a value beyond them, like any other outside
    the support of its law, has log_prob minus infinity.

    References: Casella and Berger, Statistical Inference, 2002, chapters 3, 7 and 10.

    Examples:
        >>> import numpy as np, pandas as pd, plausible as pl
        >>> rng = np.random.default_rng(0)
        >>> X = pd.DataFrame({"visits": rng.poisson(3, 5000), "hours": rng.gamma(2, 1.5, 5000)})
        >>> model = pl.NamedLaw().fit(X)
        >>> model.laws_["law"].tolist()
        ['poisson', 'gamma']
        >>> model.summary_[["value", "standard_error"]].round(2).loc[("visits", "rate")].tolist()
        [3.03, 0.02]
    """

    law: str | dict = option(
        "auto",
        "of all columns, or of some: {'age': 'gamma'} or 'age=gamma,tries=binomial(20)'; 'auto' takes that of the "
        f"least criterion among those for the kind of the column ({', '.join(NAMES)})",
    )
    criterion: str = option("bic", "what 'auto' chooses by", choices=("bic", "aic"))

    traits = Traits(
        density="exact", events=frozenset({"table"}), missing=True, given="exact", streams=True, dependence=False
    )

    def _look_at(self, X: Any, space: Space) -> None:
        wanted = _wanted(self.law, [c.name for c in space.columns])
        columns = [self._as_count(c, name) for c, (name, _) in zip(space.columns, wanted, strict=True)]
        for column, (name, _) in zip(columns, wanted, strict=True):
            if not _laws_of(column, name):
                raise DataError(_no_such_law(column, name))
        if tuple(columns) != space.columns:
            space = replace(space, columns=tuple(columns), guesses=())
        super()._look_at(X, space)

    def _as_count(self, column: Column, name: str) -> Column:
        """Take integers with few levels as counts: a Poisson law does not end where the data do."""
        told = isinstance(self.space, Space) or (isinstance(self.space, Mapping) and column.name in self.space)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in column.levels)
        of_counts = name == "auto" or any(law.name == name and law.kind == "count" for law in LAWS)
        needed = not _laws_of(column, name) or (column.kind == "ordinal" and not told)
        if not column.levels or not whole or not (of_counts and needed):
            return column
        return Column(column.name, "count", (), column.dtype, 0.0 if column.levels[0] >= 0 else None)

    def _build(self, space: Space, context_space: Space) -> Module:
        return _NamedLaw(space, _wanted(self.law, [c.name for c in space.columns]), self.criterion)

    def _transforms(self, space: Space):
        return []  # parameters are in the units of the data

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        module.keep = not isinstance(train, Chunks)
        for column, (name, _) in zip(module.columns, module.wanted, strict=True):
            law = _laws_of(column, name)[0][1]
            if not module.keep and name != "auto" and law.kind == "real" and not law.streams:
                raise DataError(f"column {column.name!r}: the law {name!r} {STREAMED}")
        return super()._train(module, train, held_out, rng)

    # ------------------------------------------------------------------------------------- what has been learned

    @property
    def laws_(self) -> Any:
        """A row per column: its law, n rows with it observed, log-likelihood, AIC, BIC, and a note on its errors."""
        import pandas as pd

        check_is_fitted(self, "module_")
        rows = []
        for law, (n, mean, k, note) in zip(self.module_.law.tolist(), self.module_.summary.tolist(), strict=True):
            log_lik = n * mean
            aic, bic = 2 * k - 2 * log_lik, k * math.log(n) - 2 * log_lik
            rows.append((LAWS[law].name, n, int(k), log_lik, aic, bic, NOTES[int(note)]))
        names = ["law", "n", "n_parameters", "log_likelihood", "aic", "bic", "note"]
        return pd.DataFrame(rows, index=self._names(), columns=names)

    @property
    def summary_(self) -> Any:
        """A row per column and parameter: its law, value and standard error, in the units of the data."""
        import pandas as pd

        check_is_fitted(self, "module_")
        module, rows = self.module_, []
        for d, column in enumerate(self.space_.columns):
            law, n = LAWS[int(module.law[d])], float(module.summary[d, 0])
            if law.name == "categorical":
                for level, p in zip(column.levels, module.p[d].tolist(), strict=False):
                    error = math.sqrt(p * (1 - p) / n) if 0 < p < 1 else math.nan
                    rows.append((column.name, f"p({level})", law.name, p, error))
            for j, name in enumerate(law.parameters):
                name = f"p({column.levels[1]})" if law.name == "bernoulli" else name
                rows.append((column.name, name, law.name, float(module.parameters_[d, j]), float(module.errors[d, j])))
        table = pd.DataFrame(rows, columns=["column", "parameter", "law", "value", "standard_error"])
        return table.set_index(["column", "parameter"])

    @property
    def criteria_(self) -> Any:
        """The criterion of every law that was tried, a row per column; less is better, NaN where it was not."""
        import pandas as pd

        check_is_fitted(self, "module_")
        found = {}
        for name in NAMES:
            values = self.module_.criteria[:, [i for i, law in enumerate(LAWS) if law.name == name]]
            values = values.nan_to_num(torch.inf).amin(1)
            if values.isfinite().any():
                found[name] = torch.where(values.isfinite(), values, torch.nan).tolist()
        return pd.DataFrame(found, index=self._names())

    def _names(self) -> Any:
        import pandas as pd

        return pd.Index([c.name for c in self.space_.columns], name="column")


def _wanted(law: Any, names: list[str]) -> list[Wanted]:
    """Return the law of each column, and the n that came with it.

    Raises:
        OptionError: a law or a column is not known.
    """
    if isinstance(law, str) and "=" in law:
        law = dict(part.split("=", 1) for part in law.split(","))
    if not isinstance(law, (str, Mapping)):
        raise OptionError(f"NamedLaw(law={law!r}): expected the name of a law or a dict of column to law")
    by_name = {str(k).strip(): v for k, v in law.items()} if isinstance(law, Mapping) else dict.fromkeys(names, law)
    unknown = [name for name in by_name if name not in names]
    if unknown:
        raise OptionError(f"NamedLaw(law={law!r}) names a column {unknown[0]!r}; there are: {', '.join(names[:20])}")
    return [_parsed(by_name.get(name, "auto")) for name in names]


def _parsed(text: Any) -> Wanted:
    match = re.fullmatch(r"\s*([a-z_]+)\s*(?:\(\s*(\d+)\s*\))?\s*", str(text))
    name = match[1] if match else str(text)
    if name not in (*NAMES, "auto"):
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(NAMES)}"
        raise OptionError(f"NamedLaw: no law is called {name!r}; {hint}")
    if match[2] is not None and name != "binomial":
        raise OptionError(f"NamedLaw: only a binomial law has a number in brackets, its n; got {text!r}")
    return name, None if match[2] is None else float(match[2])


def _no_such_law(column: Column, name: str) -> str:
    kinds = {law.kind for law in LAWS if law.name == name}
    if KIND[column.kind] == "real":
        return f"column {column.name!r} is real, and {name!r} is no law of reals"
    as_real = f"; with space={{{column.name!r}: 'real'}} its integers are taken as reals" if kinds == {"real"} else ""
    others = ", ".join(law.name for _, law in _laws_of(column))
    return f"column {column.name!r} is {column.kind}, and {name!r} is no law of that; there are: {others}{as_real}"
