r"""The multivariate normal with missing cells: its marginals, and the expectations EM needs.

For observed cells o and missing cells m of a row,

    E[x_m | x_o] = mu_m + S_mo S_oo^-1 (x_o - mu_o),     Cov[x_m | x_o] = S_mm - S_mo S_oo^-1 S_om.

Rows are handled together that miss the same cells.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from plausible.families.direct._columns import LOG_SQRT_2PI


def log_density(x: torch.Tensor, mean: torch.Tensor, cholesky: torch.Tensor) -> torch.Tensor:
    """log N(x; mean, L L') of complete rows: (n, D) -> (n,)."""
    white = torch.linalg.solve_triangular(cholesky, (x - mean).T, upper=False)  # (D, n)
    return -0.5 * white.square().sum(0) - cholesky.diagonal().log().sum() - x.shape[1] * LOG_SQRT_2PI


def log_marginal(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """log N of the observed cells of each row; zero for a row with none: (n, D) with NaN -> (n,)."""
    out = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for observed, rows in patterns(x):
        if observed.any():
            o = observed.nonzero().flatten()
            cholesky = torch.linalg.cholesky(covariance[o][:, o])
            out[rows] = log_density(x[rows][:, o], mean[o], cholesky)
    return out


def moments(
    x: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected weighted sums of x (D,) and of x x' (D, D), given the observed cells under N(mean, covariance)."""
    first = torch.zeros_like(mean)
    second = torch.zeros_like(covariance)
    for observed, rows in patterns(x):
        w, filled = weight[rows], x[rows]
        if not observed.all():
            filled, spread = _fill(filled, observed, mean, covariance)
            second += w.sum() * spread
        first += w @ filled
        second += (filled * w[:, None]).T @ filled
    return first, second


def patterns(x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (observed cells (D,), rows) for each pattern of missing cells among the rows of x."""
    missing = x.isnan()
    if not missing.any():
        yield torch.ones(x.shape[1], dtype=torch.bool, device=x.device), torch.arange(len(x), device=x.device)
        return
    kinds, which = torch.unique(missing, dim=0, return_inverse=True)
    for k, pattern in enumerate(kinds):
        yield ~pattern, (which == k).nonzero().flatten()


def _fill(x, observed, mean, covariance):
    """Replace missing cells by their conditional means; return also their conditional covariance, in (D, D)."""
    o, m = observed.nonzero().flatten(), (~observed).nonzero().flatten()
    gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, m]).T if len(o) else covariance.new_zeros(len(m), 0)
    filled = x.clone()
    filled[:, m] = mean[m] + (x[:, o] - mean[o]) @ gain.T
    spread = torch.zeros_like(covariance)
    spread[m[:, None], m] = covariance[m][:, m] - gain @ covariance[o][:, m]
    return filled, spread
