"""How many parameters a table of probabilities over a space needs: what structure saves.

    full table      prod_d K_d - 1                     any dependence
    chain           (K_1 - 1) + sum_d K_{d-1} (K_d - 1)     each dimension depends on the one before
    independent     sum_d (K_d - 1)                    none

for D dimensions of K_d levels. Twenty-eight by twenty-eight binary pixels need 2^784 - 1, 1,567 and 784.

Reference: Koller and Friedman, Probabilistic Graphical Models, 2009, section 3.1.
"""

from __future__ import annotations

import math

from plausible.space.spaces import Space


def parameter_counts(space: Space) -> dict[str, int] | None:
    """Return the parameters of a full table, a chain in the order of the columns, and a product; None without levels.

    A column that is not divided into levels (a count, a real) has no table, and strings end at different places.
    """
    levels = [column.n_levels for column in space.columns]
    if not levels or min(levels) == 0 or space.type == "text":
        return None
    chain = levels[0] - 1 + sum(before * (k - 1) for before, k in zip(levels, levels[1:], strict=False))
    return {"full table": math.prod(levels) - 1, "chain": chain, "independent": sum(k - 1 for k in levels)}


def in_figures(count: int) -> str:
    """``32,767``, or for what nobody could count ``about 10^236``."""
    return f"{count:,}" if count < 10**12 else f"about 10^{math.log10(count):.0f}"
