"""How loops are compiled. Only files of such loops import this one, which needs numba; see `nn.compiled`."""

from __future__ import annotations

from numba import njit

# Python's lock is let go of, so that threads share the work. Sums may be taken in any order; NaN and infinity keep
# their meaning, as the training loop looks for them.
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
