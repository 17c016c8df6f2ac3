"""Two-dimensional arrays, checked in scikit-learn's words."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch


def as_matrix(X: Any) -> np.ndarray:
    """Return `X` as a 2-D array, refusing what is not one in scikit-learn's words."""
    import pandas as pd
    from sklearn.utils import check_array

    if isinstance(X, pd.DataFrame):
        X = X.to_numpy()
    if isinstance(X, torch.Tensor):
        X = X.cpu().numpy()
    X = check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=0)
    if X.dtype == object:
        for value in X.ravel():
            if value is not None and not isinstance(value, (str, numbers.Number, np.generic)):
                raise TypeError(f"argument must be a string or a number, not {type(value).__name__!r}")
    return X
