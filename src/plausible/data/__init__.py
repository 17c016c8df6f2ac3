"""Reading files into examples with their space, splitting them, streaming large ones; bundled and toy data."""

from plausible.data.bundled import diabetes, digits, mixed_table
from plausible.data.folders import folder_labels
from plausible.data.read import Data, fingerprint, read, windows
from plausible.data.split import row_keys, split, take
from plausible.data.stream import Stream
from plausible.data.toy import (
    BinaryChain,
    Checkerboard,
    CorrelatedGaussian,
    EightGaussians,
    TwoMoons,
    binary_chain,
    checkerboard,
    correlated_gaussian,
    eight_gaussians,
    two_moons,
)

__all__ = [
    "BinaryChain",
    "Checkerboard",
    "CorrelatedGaussian",
    "Data",
    "EightGaussians",
    "Stream",
    "TwoMoons",
    "binary_chain",
    "checkerboard",
    "correlated_gaussian",
    "diabetes",
    "digits",
    "eight_gaussians",
    "fingerprint",
    "folder_labels",
    "mixed_table",
    "read",
    "row_keys",
    "split",
    "take",
    "two_moons",
    "windows",
]
