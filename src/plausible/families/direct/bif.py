"""Bayesian networks from and to files in the Bayesian Interchange Format: what ``load`` and ``save`` do with `.bif`.

    model = pl.load("alarm.bif")               # a fitted BayesNet, with the graph and the tables of the file
    given.table(model, "LVFAILURE", {"HR": "HIGH"})
    clone(model).fit(df)                       # the same graph, tables from data
    model.save("mine.bif")                     # for bnlearn, pgmpy and others

The format has no missing values, weights or settings: what a file says is the graph, the states and the tables.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.errors import DataError
from plausible.families.direct._bif import Network, read_bif, to_text, write_bif
from plausible.families.direct.bayes_net import BayesNet
from plausible.randomness import generator
from plausible.space import Column, Table
from plausible.space.column import plain, some
from plausible.training import History

DIGITS = 15  # that are written of a probability: what taking logarithms has changed is beyond them


def read(path: str | os.PathLike) -> BayesNet:
    """Return the network of a file as a fitted model; `structure` is its graph, so that a clone can be fitted to data.

    States become levels in their order: whole numbers, and True and False, as such, all others as strings. Tables whose
    printed digits miss a sum of one are divided by it.

    Raises:
        ReadError: the file is absent or not a BIF file; the message has the line.
    """
    return from_network(read_bif(path))


def write(model: BayesNet, path: str | os.PathLike) -> None:
    """Write the graph and the tables of a fitted model; an existing file is replaced only once the new one is whole.

    Raises:
        DataError: the model is not made of tables of levels, or a name cannot be written in this format.
    """
    write_bif(to_network(model, Path(path).stem), path)


def from_network(network: Network) -> BayesNet:
    """Return the fitted model that a network describes."""
    columns = tuple(_column(name, states) for name, states in network.variables.items())
    model = BayesNet(structure={name: list(parents) for name, parents in network.parents.items() if parents})
    model.space_ = Table(columns, (len(columns),))
    model.context_space_, model.context_columns_ = None, ()
    names = list(network.variables)
    model.n_features_in_, model.feature_names_in_ = len(names), np.array(names, dtype=object)
    codes = torch.zeros(1, len(names), dtype=torch.float64)  # levels have nothing that transforms could learn
    chain, module = model._assemble(codes, None, generator(0))
    module.connect(module.given)
    for d, name in enumerate(names):
        axes = [1 + network.parents[name].index(names[p]) for p in module.parents[d]]
        table = network.tables[name] / network.tables[name].sum(0)
        module.set_table(d, torch.from_numpy(table.transpose(*axes, 0).copy()))
    model._keep(chain, module, History(stopped="read"))
    model.fingerprint_ = hashlib.sha256(to_text(network).encode()).hexdigest()[:16]
    model.fit_seconds_ = 0.0
    return model


def to_network(model: BayesNet, name: str = "unknown") -> Network:
    """Return the graph and the tables of a fitted model.

    Raises:
        DataError: the model is not made of tables of levels, or its levels cannot be told apart once written.
    """
    if not isinstance(model, BayesNet):
        raise DataError(
            f"BIF holds Bayesian networks of tables, and this is a {type(model).__name__}; save it under another suffix"
        )
    check_is_fitted(model, "module_")
    module, columns = model.module_, model.space_.columns
    network = Network(name)
    for d, column in enumerate(columns):
        if d not in module.layout.offset or module.layout.levels[d] != column.n_levels:
            raise DataError(
                f"BIF holds tables of levels only; column {column.name!r} is {column.kind}, was cut into bins or has a "
                "net: save the model under another suffix"
            )
        states = tuple(str(plain(level)) for level in column.levels)
        if len(set(states)) < len(states):
            raise DataError(f"column {column.name!r} has levels that are written alike: {some(column.levels)}")
        network.variables[column.name] = states
        network.parents[column.name] = tuple(columns[p].name for p in module.parents[d])
        table = module.table(d).movedim(-1, 0).cpu().numpy()
        network.tables[column.name] = np.vectorize(lambda p: float(f"{p:.{DIGITS}g}"), otypes=[float])(table)
    return network


def _column(name: str, states: tuple[str, ...]) -> Column:
    levels: tuple = states
    dtype = str(pd.Series(["text"]).dtype)
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", s) for s in states):
        levels, dtype = tuple(int(s) for s in states), "int64"
    elif set(states) <= {"True", "False"}:
        levels, dtype = tuple(s == "True" for s in states), "bool"
    return Column(name, "binary" if len(states) == 2 else "categorical", levels, dtype)
