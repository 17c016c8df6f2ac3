"""Building blocks that know no probability."""

from plausible.nn.mlp import MLP, Dropout, activation
from plausible.nn.splines import RationalQuadratic

__all__ = ["MLP", "Dropout", "RationalQuadratic", "activation"]
