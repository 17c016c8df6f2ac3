"""Building blocks that know no probability."""

from plausible.nn.mlp import MLP, MaskedLinear, activation
from plausible.nn.splines import RationalQuadratic

__all__ = ["MLP", "MaskedLinear", "RationalQuadratic", "activation"]
