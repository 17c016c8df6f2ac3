"""Data sets that are there after installation: real ones that ship with scikit-learn, and toys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from plausible.data import toy
from plausible.errors import DataError


def digits() -> np.ndarray:
    """1,797 handwritten digits as images: (1797, 8, 8) uint8, pixels 0 to 16.

    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    return load_digits().images.astype(np.uint8)


def diabetes() -> pd.DataFrame:
    """442 patients with diabetes: a mixed table of 9 columns, made from scikit-learn's raw `load_diabetes`.

    age (years), cholesterol (total, mg/dl), glucose (mg/dl) and progression (of the disease after one year) are
    integers; bmi (kg/m2), pressure (mean blood pressure, mm Hg) and ratio (total to HDL cholesterol) are real; sex is
    binary (the source does not say which code is which); lipids is a category: which of LDL cholesterol (130 mg/dl)
    and triglycerides (150 mg/dl) exceed the limit at which they are called high. The three columns that lipids and
    ratio are made from are left out, so that no column is a function of others.

    Efron, Hastie, Johnstone and Tibshirani (2004), Least Angle Regression, https://doi.org/10.1214/009053604000000067
    """
    from sklearn.datasets import load_diabetes

    raw = load_diabetes(scaled=False, as_frame=True).frame
    high = (raw["s2"] >= 130).astype(int) + 2 * (np.exp(raw["s5"]) >= 150).astype(int)  # s2: LDL, s5: log triglycerides
    return pd.DataFrame(
        {
            "age": raw["age"].astype(int),
            "sex": pd.Categorical.from_codes(raw["sex"].astype(int) - 1, ["1", "2"]),
            "bmi": raw["bmi"],
            "pressure": raw["bp"],
            "cholesterol": raw["s1"].astype(int),
            "ratio": raw["s1"] / raw["s3"],
            "lipids": pd.Categorical.from_codes(high, ["normal", "high LDL", "high triglycerides", "both high"]),
            "glucose": raw["s6"].astype(int),
            "progression": raw["target"].astype(int),
        }
    )


def mixed_table() -> pd.DataFrame:
    """The bundled table with columns of every kind: `diabetes`."""
    return diabetes()


_SETS: dict[str, Callable[[], Any]] = {
    "digits": digits,
    "diabetes": diabetes,
    "two_moons": lambda: toy.two_moons(2000, random_state=0),
    "eight_gaussians": lambda: toy.eight_gaussians(2000, random_state=0),
    "checkerboard": lambda: toy.checkerboard(2000, random_state=0),
    "correlated_gaussian": lambda: toy.correlated_gaussian(2000, random_state=0),
    "binary_chain": lambda: toy.binary_chain(2000, random_state=0),
}


def names() -> list[str]:
    """The names of the bundled data sets, which `plausible.data.read` takes like a file."""
    return list(_SETS)


def load(name: str) -> Any:
    """Return the bundled data set of that name.

    Raises:
        DataError: there is none.
    """
    if name not in _SETS:
        raise DataError(f"there is no bundled data set {name!r}; there are {', '.join(_SETS)}")
    return _SETS[name]()
