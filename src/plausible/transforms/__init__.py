"""Changes of variables that return the value and its log term together."""

from plausible.transforms.base import Chain, Transform
from plausible.transforms.bins import Bins
from plausible.transforms.dequantise import Dequantise
from plausible.transforms.logit import Logit
from plausible.transforms.margins import NormalMargins
from plausible.transforms.mu_law import MuLaw
from plausible.transforms.standardise import Standardise

__all__ = ["Bins", "Chain", "Dequantise", "Logit", "MuLaw", "NormalMargins", "Standardise", "Transform"]
