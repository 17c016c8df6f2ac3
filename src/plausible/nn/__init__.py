"""Building blocks that know no probability."""

from plausible.nn.mlp import MLP, MaskedLinear, activation

__all__ = ["MLP", "MaskedLinear", "activation"]
