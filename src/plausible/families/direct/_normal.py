r"""The multivariate normal with missing cells: its marginals, its conditionals, and the expectations EM needs.

For observed cells o and missing cells m of a row,

    E[x_m | x_o] = mu_m + S_mo S_oo^-1 (x_o - mu_o),     Cov[x_m | x_o] = S_mm - S_mo S_oo^-1 S_om.

Rows that miss the same cells share a pattern. All patterns are handled in one batch: with M the diagonal of the
observed cells, M S M + (I - M) is S_oo beside an identity, which has the determinant of S_oo and leaves zeros alone.

A draw of x_m given x_o takes no factor of the conditional covariance (Hoffman and Ribak, 1991): with x* drawn from the
whole normal, x*_m + S_mo S_oo^-1 (x_o - x*_o) has the conditional law.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plausible.families.direct._columns import LOG_SQRT_2PI, mean_of, variance_of

SHARED_BY = 16  # rows, from which on those of a pattern are solved for together
AS_NUMBERS = 52  # columns up to which a pattern is a whole number in double precision
PSEUDO_ROWS = 2.0  # of uncorrelated columns, in an estimate from rows that may be few, or miss what they share


def log_density(x: torch.Tensor, mean: torch.Tensor, cholesky: torch.Tensor) -> torch.Tensor:
    """log N(x; mean, L L') of complete rows: (n, D) -> (n,)."""
    white = torch.linalg.solve_triangular(cholesky, (x - mean).T, upper=False)  # (D, n)
    return -0.5 * white.square().sum(0) - cholesky.diagonal().log().sum() - x.shape[1] * LOG_SQRT_2PI


def log_marginal(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """log N of the observed cells of each row; zero for a row with none: (n, D) with NaN -> (n,)."""
    if not x.isnan().any():
        return log_density(x, mean, torch.linalg.cholesky(covariance))
    distance, log_det = distance_of(x, mean, covariance)
    return -0.5 * (distance + log_det) - (~x.isnan()).sum(1) * LOG_SQRT_2PI


def distance_of(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_o - mu_o)' S_oo^-1 (x_o - mu_o) and log det S_oo of the observed cells o of each row: both (n,)."""
    missing = x.isnan()
    if not missing.any():
        cholesky = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(cholesky, (x - mean).T, upper=False)  # (D, n)
        return white.square().sum(0), (2 * cholesky.diagonal().log().sum()).expand(len(x))
    _, which, cholesky = _patterns(missing, covariance)
    white = _solved(_forward, cholesky, which, torch.nan_to_num(x - mean))  # (n, D)
    return white.square().sum(1), 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1)[which]


def regress(residual: torch.Tensor, missing: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """S_.o S_oo^-1 e_o of residuals e (n, D), of which the missing cells do not count: what the others foretell."""
    if not len(residual):
        return residual
    _, which, cholesky = _patterns(missing, covariance)
    return _solved(_both, cholesky, which, torch.where(missing, 0.0, residual)) @ covariance


def conditional_covariance(missing: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Cov[x | x_o] (D, D) of one pattern (D,) of missing cells; zero where they are known."""
    observed, _, cholesky = _patterns(missing[None], covariance)
    return _spread(observed, torch.ones_like(observed[:, 0]), cholesky, covariance)


def moments(
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    covariance: torch.Tensor,
    share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected weighted sums of x (D,) and of x x' (D, D), given the observed cells under N(mean, covariance).

    The spread of the missing cells counts by `share`, if that is not the weight of the row.
    """
    missing = x.isnan()
    second = torch.zeros_like(covariance)
    if missing.any():
        observed, which, cholesky = _patterns(missing, covariance)
        solved = _solved(_both, cholesky, which, torch.nan_to_num(x - mean))  # S_oo^-1 (x_o - mu_o), zero elsewhere
        x = torch.where(missing, mean + solved @ covariance, x)
        shares = torch.zeros(len(observed), dtype=x.dtype, device=x.device)
        shares.index_add_(0, which, weight if share is None else share)
        second = _spread(observed, shares, cholesky, covariance)
    return weight @ x, second + (x * weight[:, None]).T @ x


def estimate(
    x: torch.Tensor, weight: torch.Tensor, pieces: list[slice], iterations: int = 30
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (D,) and covariance (D, D) of rows with missing cells: a few iterations of EM, piece by piece."""
    mean, variance, total = mean_of(x, weight), variance_of(x, weight), weight.sum()
    covariance = start = torch.diag(torch.where(variance > 1e-12, variance, 1e-6))  # a constant column has no factor
    for _ in range(iterations):
        sums = [moments(x[part], weight[part], mean, covariance) for part in pieces]
        mean = sum(first for first, _ in sums) / total
        scatter = sum(second for _, second in sums) - total * torch.outer(mean, mean)
        covariance = (scatter + PSEUDO_ROWS * start) / (total + PSEUDO_ROWS)
    return mean, covariance


def _patterns(missing: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the patterns (P, D) of observed cells, that of each row (n,), and the factors of their S_oo (P, D, D)."""
    kinds, which = _distinct(missing)
    observed = (~kinds).to(covariance.dtype)
    padded = observed[:, :, None] * covariance * observed[:, None, :] + torch.diag_embed(1 - observed)
    return observed, which, torch.linalg.cholesky(padded)


def _forward(cholesky: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """L^-1 e."""
    return torch.linalg.solve_triangular(cholesky, e, upper=False)


def _both(cholesky: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """(L L')^-1 e."""
    return torch.cholesky_solve(e, cholesky)


def _solved(solve: Callable, cholesky: torch.Tensor, which: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Solve for each row of e (n, D) by the factor of its pattern, which is not copied where many rows share it."""
    if len(cholesky) * SHARED_BY > len(e):
        return solve(cholesky[which], e[:, :, None])[:, :, 0]
    if len(cholesky) == 1:
        return solve(cholesky[0], e.T).T
    out = torch.empty_like(e)
    of_each = which.argsort().split(torch.bincount(which, minlength=len(cholesky)).tolist())
    for factor, rows in zip(cholesky, of_each, strict=True):
        out[rows] = solve(factor, e[rows].T).T
    return out


def _distinct(missing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct rows (P, D) of a mask (n, D), and which of them each row is (n,)."""
    if missing.shape[1] > AS_NUMBERS:
        return torch.unique(missing, dim=0, return_inverse=True)
    number = missing.double() @ 2.0 ** torch.arange(missing.shape[1], dtype=torch.float64, device=missing.device)
    numbers, which = torch.unique(number, return_inverse=True)  # ten times as fast as to compare rows
    row = torch.zeros(len(numbers), dtype=torch.long, device=missing.device)
    return missing[row.scatter_(0, which, torch.arange(len(missing), device=missing.device))], which


def _spread(observed, shares, cholesky, covariance) -> torch.Tensor:
    """Sum over patterns of their weight times Cov[x_m | x_o], zero for observed cells."""
    across = observed[:, :, None] * covariance  # S_o. , with zeros in the missing rows
    explained = across.transpose(1, 2) @ torch.cholesky_solve(across, cholesky)
    hidden = 1 - observed
    left = (covariance - explained) * hidden[:, :, None] * hidden[:, None, :]
    return (shares[:, None, None] * left).sum(0)
