"""Sampling from a density that is known, at least up to a constant.

| the density | the way |
|---|---|
| one dimension, its cumulative | `inverse_transform` |
| conditional cumulatives; a density on a box in 1 to 3 dimensions | `inverse_conditionals`, `inverse_density` |
| a bound on p / q for a proposal q | `rejection` |
| a proposal q that covers it; expectations wanted | `importance` |
| reals, with a gradient | `nuts`; `mala` |
| reals, without one; anything with a proposal | `metropolis_hastings` |
| levels, or levels and numbers; conditionals that can be drawn from | `gibbs_discrete`; `gibbs` |
| modes far apart | `parallel_tempering` |

A target is a function of points (n, D), a float64 tensor, that returns log p(x) of each, (n,), up to a constant. What
comes back (`Draws`) knows its acceptance, effective sample size and R-hat, and says what is wrong with it.
"""

from plausible.sampling.gibbs import gibbs, gibbs_discrete
from plausible.sampling.hamiltonian import nuts
from plausible.sampling.independent import importance, rejection
from plausible.sampling.inversion import inverse_conditionals, inverse_density, inverse_transform, quantile
from plausible.sampling.metropolis import mala, metropolis_hastings
from plausible.sampling.result import Draws, Weighted
from plausible.sampling.tempering import parallel_tempering

__all__ = [
    "Draws",
    "Weighted",
    "gibbs",
    "gibbs_discrete",
    "importance",
    "inverse_conditionals",
    "inverse_density",
    "inverse_transform",
    "mala",
    "metropolis_hastings",
    "nuts",
    "parallel_tempering",
    "quantile",
    "rejection",
]
