r"""The real columns of the components of a mixture: a centre m_k and a scale matrix S_k each.

    dense       S_k free, or one S for all (tied)
    diagonal    S_k = diag(s_k), or s_k I (spherical)
    factors     S_k = L_k L_k' + diag(s_k) with L_k (R, q): a factor analyser, y = m_k + L_k h + noise

All that a mixture asks of them goes through the distance (y - m)' S^-1 (y - m) and the statistics of the M-step. For
complete rows the distance is a linear function of the features (y, y y') or (y, y^2) of a row, less |w|^2 for factors,
w = C (y - m), so that the work is matrix products. Missing cells are integrated out: a dense law takes expectations
in their place, the others leave them out of the sums.

A row counts r in the size of a component, and g = r u in its moments, u being the expected precision of a row under a
Student-t component (one under a normal).

References: Ghahramani and Hinton, The EM algorithm for mixtures of factor analyzers, 1996. Ghahramani and Jordan,
Supervised learning from incomplete data via an EM approach, 1994.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible.families.direct import _normal
from plausible.families.direct._columns import quantiles, variance_of
from plausible.randomness import normal

RIDGE = 1e-6  # of the variance of the whole data, which no variance lies below
HELD = 1e-6  # rows that a component needs to have a centre of its own
DEGREES = (0.2, 1000.0)  # between which degrees of freedom are fitted: above, a Student-t is a normal
POOLED_ABOVE = 128  # columns from which factors start from the covariance within all clusters together

Sums = list[torch.Tensor]


class Law(nn.Module):
    """What the laws share. Legend: K components, R columns, F features, n rows; missing cells are NaN."""

    def __init__(self, reals: int, shared: bool):
        super().__init__()
        self.reals, self.shared = reals, shared

    def allocate(self, components: int, device=None) -> None:
        """Make room for the parameters of so many components."""
        for name, shape in self.shapes(components).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64, device=device))

    @property
    def components(self) -> int:
        return len(self.centre)

    def _white(self, f: torch.Tensor, natural: tuple) -> torch.Tensor | None:
        """w (K, q, n) of complete rows, where there are factors."""
        return None

    def distance(self, f: torch.Tensor, natural: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of the features f (F, n) of complete rows: the distances (K, n), and w."""
        theta, constant = natural[:2]
        white = self._white(f, natural)
        distance = torch.addmm(constant, theta, f)
        if white is not None:
            distance -= white.square().sum(1)
        return distance, white

    def regress(self, residual: torch.Tensor, missing: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """What the known cells of residuals (n, R) under components k (n,) foretell of all cells."""
        out = torch.zeros_like(residual)
        for j in torch.unique(k).tolist():
            rows = (k == j).nonzero()[:, 0]
            for part in rows.split(1024):
                out[part] = self._regress(residual[part], missing[part], j)
        return out

    def given(self, y: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre (n, R) and scale matrix (n, R, R) of rows under component k, given the cells that are known."""
        missing, which = y.isnan(), torch.full((len(y),), k, device=y.device)
        foretold = self.centre[k] + self.regress(torch.nan_to_num(y - self.centre[k]), missing, which)
        scales = [_normal.conditional_covariance(m, self.scale(k)) for m in missing]
        return torch.where(missing, foretold, y), torch.stack(scales)


class Dense(Law):
    """centre (K, R), covariance (K, R, R), or (1, R, R) where it is shared."""

    def __init__(self, reals: int, shared: bool):
        super().__init__(reals, shared)
        self.register_buffer("upper", torch.triu_indices(reals, reals), persistent=False)

    def shapes(self, k: int) -> dict[str, tuple[int, ...]]:
        r = self.reals
        return {"centre": (k, r), "covariance": (1 if self.shared else k, r, r)}

    @property
    def n_parameters(self) -> int:
        return self.centre.numel() + len(self.covariance) * self.reals * (self.reals + 1) // 2

    @property
    def n_features(self) -> int:
        return self.reals + len(self.upper[0])

    def begin(self, whole: torch.Tensor, within: torch.Tensor, centre: torch.Tensor) -> None:
        """Start from a matrix (R, R) and centres (K, R)."""
        self.centre.copy_(centre)
        self.covariance.copy_(within.expand_as(self.covariance))

    def write(self, f: torch.Tensor) -> None:
        """Fill the features (F, n) of complete rows, of which y (R, n) stands there: the upper triangle of y y'."""
        y, start = f[: self.reals], self.reals
        for i in range(self.reals):  # the order of `upper`
            torch.mul(y[i:], y[i], out=f[start : start + self.reals - i])
            start += self.reals - i

    def natural(self) -> tuple[torch.Tensor, ...]:
        """theta (K, F) and constant (K, 1) of the distance, and log det S (K, 1)."""
        cholesky = torch.linalg.cholesky(self.covariance)
        precision = torch.cholesky_inverse(cholesky).expand(self.components, -1, -1)
        linear = (precision @ self.centre[:, :, None])[:, :, 0]
        i, j = self.upper
        quadratic = precision[:, i, j] * torch.where(i == j, 1.0, 2.0)
        log_det = 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        constant = (linear * self.centre).sum(1, keepdim=True)
        return torch.cat([-2 * linear, quadratic], 1), constant, log_det.expand(self.components, 1)

    def statistics(self, products, r, g, f=None, white=None, natural=()) -> Sums:
        """Sums of g (K,), and of y and the upper triangle of y y', weighted by g: g f' (K, F)."""
        return [g.sum(1), products]

    def distance_of(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance and log det of the observed cells of rows (n, R): both (K, n)."""
        covariance = self.covariance.expand(self.components, -1, -1)
        pairs = [_normal.distance_of(y, m, s) for m, s in zip(self.centre, covariance, strict=True)]
        return tuple(torch.stack(t) for t in zip(*pairs, strict=True))

    def statistics_of(self, y: torch.Tensor, r: torch.Tensor, g: torch.Tensor) -> Sums:
        """Expected statistics of rows (n, R) with missing cells, for r and g (K, n)."""
        covariance = self.covariance.expand(self.components, -1, -1)
        rows = zip(g, r, self.centre, covariance, strict=True)
        pairs = [_normal.moments(y, gk, m, s, rk) for gk, rk, m, s in rows]
        first, second = (torch.stack(p) for p in zip(*pairs, strict=True))
        return [g.sum(1), torch.cat([first, second[:, self.upper[0], self.upper[1]]], 1)]

    def update(self, size: torch.Tensor, sums: Sums, whole: torch.Tensor, average: torch.Tensor, prior: float) -> None:
        """The M-step; `prior` pseudo-rows of covariance `whole` lie around each centre."""
        total, products = sums
        first, upper = products.split([self.reals, len(self.upper[0])], 1)
        second = products.new_zeros(len(first), self.reals, self.reals)
        second[:, self.upper[0], self.upper[1]] = upper
        second[:, self.upper[1], self.upper[0]] = upper
        held = size > HELD
        centre = torch.where(held[:, None], first / total.clamp_min(1e-300)[:, None], average)
        self.centre.copy_(centre)
        scatter = second - centre[:, :, None] * first[:, None, :] - first[:, :, None] * centre[:, None, :]
        scatter = scatter + total[:, None, None] * centre[:, :, None] * centre[:, None, :]
        scatter = torch.where(held[:, None, None], scatter, 0.0)
        if self.shared:
            scatter, size = scatter.sum(0, keepdim=True), size.sum(0, keepdim=True)
        else:
            size = torch.where(held, size, 0.0)
        # A component without rows and without pseudo-rows has the covariance of the whole.
        prior = max(prior, 1e-9)
        raised = (scatter + prior * whole) / (size + prior)[:, None, None] + torch.diag(_ridge(whole))
        self.covariance.copy_(raised)

    def draw(self, k: torch.Tensor, spread: torch.Tensor, rng) -> torch.Tensor:
        """Draw rows of components k (n,), whose deviations are multiplied by spread (n, 1)."""
        noise = normal(rng, (len(k), self.reals), self.centre)
        cholesky = torch.linalg.cholesky(self.covariance).expand(self.components, -1, -1)
        out = torch.empty_like(noise)
        for j in torch.unique(k).tolist():
            rows = k == j
            out[rows] = noise[rows] @ cholesky[j].T
        return self.centre[k] + spread * out

    def scale(self, k: int) -> torch.Tensor:
        """The scale matrix (R, R) of a component."""
        return self.covariance[0 if self.shared else k]

    def _regress(self, residual, missing, k):
        return _normal.regress(residual, missing, self.scale(k))


class Diagonal(Law):
    """centre (K, R), variance (K, R), or (K, 1) where all columns share it."""

    def shapes(self, k: int) -> dict[str, tuple[int, ...]]:
        return {"centre": (k, self.reals), "variance": (k, 1 if self.shared else self.reals)}

    @property
    def n_parameters(self) -> int:
        return self.centre.numel() + self.variance.numel()

    @property
    def n_features(self) -> int:
        return 2 * self.reals

    def begin(self, whole: torch.Tensor, within: torch.Tensor, centre: torch.Tensor) -> None:
        self.centre.copy_(centre)
        variance = within.diagonal()
        self.variance.copy_(variance.mean() if self.shared else variance)

    def write(self, f: torch.Tensor) -> None:
        """Fill the features (F, n), of which y (R, n) stands there: y^2."""
        torch.mul(f[: self.reals], f[: self.reals], out=f[self.reals :])

    def natural(self) -> tuple[torch.Tensor, ...]:
        variance = self.variance.expand_as(self.centre)
        linear = self.centre / variance
        constant = (linear * self.centre).sum(1, keepdim=True)
        return torch.cat([-2 * linear, 1 / variance], 1), constant, variance.log().sum(1, keepdim=True)

    def statistics(self, products, r, g, f=None, white=None, natural=()) -> Sums:
        """Sizes and sums of g, y and y^2, column by column where cells are missing."""
        return [r.sum(1, keepdim=True), g.sum(1, keepdim=True), *products.split(self.reals, 1)]

    def distance_of(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return diagonal_distance(y, self.centre, self.variance.expand_as(self.centre))

    def statistics_of(self, y: torch.Tensor, r: torch.Tensor, g: torch.Tensor) -> Sums:
        known, x = (~y.isnan()).double(), torch.nan_to_num(y)
        return [r @ known, g @ known, g @ x, g @ x.square()]

    def update(self, size, sums, whole, average, prior):
        n, total, first, second = (s.expand_as(self.centre) for s in sums)
        held = n > HELD
        centre = torch.where(held, first / total.clamp_min(1e-300), average)
        self.centre.copy_(centre)
        within = (second - 2 * centre * first + centre.square() * total).clamp_min(0)
        within, n = (torch.where(held, t, 0.0) for t in (within, n))
        prior, spread, ridge = max(prior, 1e-9), whole.diagonal().expand_as(centre), _ridge(whole).expand_as(centre)
        if self.shared:
            within, n, spread, ridge = (t.mean(1, keepdim=True) for t in (within, n, spread, ridge))
        self.variance.copy_((within + prior * spread) / (n + prior) + ridge)

    def draw(self, k, spread, rng):
        noise = normal(rng, (len(k), self.reals), self.centre)
        return self.centre[k] + spread * noise * self.variance.sqrt()[k]

    def scale(self, k):
        return torch.diag(self.variance[k].expand(self.reals))

    def regress(self, residual, missing, k):
        return torch.zeros_like(residual)  # the columns know nothing of each other


class Factors(Law):
    """centre (K, R), loadings L (K, R, q), noise s (K, R). M = I + L' S_0^-1 L with S_0 = diag(s)."""

    def __init__(self, reals: int, rank: int):
        super().__init__(reals, False)
        self.rank = max(min(rank, reals - 1), 0)

    def shapes(self, k: int) -> dict[str, tuple[int, ...]]:
        r = self.reals
        return {"centre": (k, r), "loadings": (k, r, self.rank), "noise": (k, r)}

    @property
    def n_parameters(self) -> int:
        # Turning the factors changes nothing: q (q - 1) / 2 loadings are not free.
        q = self.rank
        return self.components * (2 * self.reals + self.reals * q - q * (q - 1) // 2)

    @property
    def n_features(self) -> int:
        return 2 * self.reals

    write = Diagonal.write

    def begin(self, whole: torch.Tensor, within: torch.Tensor, centre: torch.Tensor) -> None:
        """Start from the principal axes of a matrix (R, R), or of one per component (K, R, R)."""
        self.centre.copy_(centre)
        q = self.rank
        values, axes = torch.linalg.eigh(within)
        rest = values[..., : self.reals - q].mean(-1)[..., None].clamp_min(1e-6)
        loadings = axes[..., -q:] * (values[..., -q:] - rest).clamp_min(1e-2 * rest).sqrt()[..., None, :]
        loadings = loadings[..., :q]  # of a rank of zero none
        self.loadings.copy_(loadings.expand_as(self.loadings))
        diagonal = within.diagonal(dim1=-2, dim2=-1)
        noise = (diagonal - self.loadings.square().sum(2)).maximum(0.05 * diagonal)
        self.noise.copy_(noise + _ridge(whole))

    def _white_factor(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The factor of M (K, q, q), and C = factor^-1 L' S_0^-1 (K, q, R)."""
        scaled = (self.loadings / self.noise[:, :, None]).transpose(1, 2)
        eye = torch.eye(self.rank, dtype=scaled.dtype, device=scaled.device)
        factor = torch.linalg.cholesky(eye + scaled @ self.loadings)
        return factor, torch.linalg.solve_triangular(factor, scaled, upper=False)

    def natural(self) -> tuple[torch.Tensor, ...]:
        """theta, constant and log det as of a diagonal law, then C, C m and the factor of M."""
        linear = self.centre / self.noise
        constant = (linear * self.centre).sum(1, keepdim=True)
        factor, c = self._white_factor()
        log_det = self.noise.log().sum(1) + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        theta = torch.cat([-2 * linear, 1 / self.noise], 1)
        return theta, constant, log_det[:, None], c, c @ self.centre[:, :, None], factor

    def _white(self, f, natural):
        c, shift = natural[3:5]
        k, q, r = c.shape
        return (c.reshape(k * q, r) @ f[:r]).reshape(k, q, f.shape[1]).sub_(shift)

    def statistics(self, products, r, g, f=None, white=None, natural=()) -> Sums:
        """Sizes; A, the sum of h h' with h = (factors, 1); b, that of y h'; and that of y^2."""
        first, second = products.split(self.reals, 1)
        weighted = white * g[:, None, :]
        back = torch.linalg.inv(natural[5])  # E h = factor'^-1 w
        size, total = r.sum(1), g.sum(1)
        hh = back.mT @ (weighted @ white.mT + size[:, None, None] * torch.eye(self.rank).to(back)) @ back
        h = (weighted.sum(2)[:, None, :] @ back)[:, 0]
        yh = (weighted.flatten(0, 1) @ f[: self.reals].T).reshape(*white.shape[:2], self.reals).mT @ back
        return [size[:, None], _bordered(hh, h, total)[:, None], torch.cat([yh, first[:, :, None]], 2), second]

    def distance_of(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = []
        distances, log_dets = diagonal_distance(y, self.centre, self.noise)
        for k in range(self.components):
            factor, t = self._posterior(y, k)
            white = torch.linalg.solve_triangular(factor, t[:, :, None], upper=False)[:, :, 0]
            more = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
            pairs.append((distances[k] - white.square().sum(1), log_dets[k] + more))
        return tuple(torch.stack(t) for t in zip(*pairs, strict=True))

    def _posterior(self, y: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rows with missing cells: the factor of M_o (n, q, q), and L_o' S_0^-1 (y_o - m_o) (n, q)."""
        known = (~y.isnan()).double()
        loadings, scaled = self.loadings[k], self.loadings[k] / self.noise[k][:, None]
        products = (scaled[:, :, None] * loadings[:, None, :]).flatten(1)  # (R, q q)
        eye = torch.eye(self.rank, dtype=y.dtype, device=y.device)
        m = (known @ products).reshape(len(y), self.rank, self.rank) + eye
        return torch.linalg.cholesky(m), torch.nan_to_num(y - self.centre[k]) @ scaled

    def statistics_of(self, y, r, g) -> Sums:
        known, x = (~y.isnan()).double(), torch.nan_to_num(y)
        sums = []
        for k in range(self.components):
            factor, t = self._posterior(y, k)
            h = torch.cholesky_solve(t[:, :, None], factor)[:, :, 0]
            rows = g[k][:, None, None] * h[:, :, None] * h[:, None, :]
            rows = _bordered(rows + r[k][:, None, None] * torch.cholesky_inverse(factor), g[k][:, None] * h, g[k])
            a = (known.T @ rows.flatten(1)).reshape(self.reals, self.rank + 1, self.rank + 1)
            one = torch.cat([h, torch.ones_like(h[:, :1])], 1) if self.rank else torch.ones_like(y[:, :1])
            sums.append((r[k] @ known, a, x.T @ (g[k][:, None] * one), g[k] @ x.square()))
        return [torch.stack(t) for t in zip(*sums, strict=True)]

    def update(self, size, sums, whole, average, prior):
        """Regress every column on the factors: (L, m)_d = b_d A_d^-1, and the noise is what is left."""
        n, a, b, second = sums
        n = n.expand_as(self.centre)
        held = n > HELD
        eye = torch.eye(self.rank + 1, dtype=a.dtype, device=a.device)
        a = torch.where(held[:, : a.shape[1], None, None], a, eye)
        scale = a.diagonal(dim1=2, dim2=3).clamp_min(1e-300).sqrt()  # rows may count little: solve in units of one
        unit = a / scale[..., :, None] / scale[..., None, :] + 1e-12 * eye
        solved = torch.linalg.solve(unit, (b / scale)[..., None])[..., 0] / scale
        centre = torch.where(held, solved[:, :, -1], average)
        self.centre.copy_(centre)
        self.loadings.copy_(torch.where(held[:, :, None], solved[:, :, :-1], self.loadings))
        # This form of what is left holds for any coefficients, those rounded too.
        coefficients = torch.cat([self.loadings, centre[:, :, None]], 2)
        left = second - 2 * (b * coefficients).sum(2)
        left = left + torch.einsum("krp,krpq,krq->kr", coefficients, a.expand(-1, self.reals, -1, -1), coefficients)
        left, n = (torch.where(held, t, 0.0) for t in (left.clamp_min(0), n))
        prior = max(prior, 1e-9)
        self.noise.copy_((left + prior * whole.diagonal()) / (n + prior) + _ridge(whole))

    def draw(self, k, spread, rng):
        noise = normal(rng, (len(k), self.reals), self.centre) * self.noise.sqrt()[k]
        h = normal(rng, (len(k), self.rank), self.centre)
        for j in torch.unique(k).tolist():
            rows = k == j
            noise[rows] += h[rows] @ self.loadings[j].T
        return self.centre[k] + spread * noise

    def scale(self, k):
        return self.loadings[k] @ self.loadings[k].T + torch.diag(self.noise[k])

    def _regress(self, residual, missing, k):
        y = torch.where(missing, torch.nan, residual + self.centre[k])
        factor, t = self._posterior(y, k)
        return torch.cholesky_solve(t[:, :, None], factor)[:, :, 0] @ self.loadings[k].T


def _ridge(whole: torch.Tensor) -> torch.Tensor:
    """What is added to the variance of each column (R,); a column that is constant counts in its own unit."""
    variance = whole.diagonal()
    return RIDGE * torch.where(variance > 1e-12, variance, 1.0)


def _bordered(hh: torch.Tensor, h: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """The matrix (hh, h; h', one) for batches hh (n, q, q), h (n, q), one (n,)."""
    above = torch.cat([hh, h[:, :, None]], 2)
    return torch.cat([above, torch.cat([h, one[:, None]], 1)[:, None, :]], 1)


def diagonal_distance(
    y: torch.Tensor, centre: torch.Tensor, variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance and log det of the observed cells of rows (n, R) for K centres and variances (K, R): both (K, n)."""
    known, x = (~y.isnan()).double().T, torch.nan_to_num(y).T
    linear = centre / variance
    distance = (linear * centre) @ known - 2 * linear @ x + (1 / variance) @ x.square()
    return distance, variance.log() @ known


def robust_variance(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """That of a normal with the same quartiles; of a column of which half is one value, the variance."""
    known = w[:, None] * ~x.isnan()
    low, high = quantiles(torch.nan_to_num(x), known, torch.tensor([0.25, 0.75], dtype=x.dtype, device=x.device)).T
    variance = ((high - low) / 1.349).square()
    return torch.where(variance > 0, variance, variance_of(x, w))


def degrees_of(surplus: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """The degrees nu (K,) with log(nu / 2) + 1 - digamma(nu / 2) + surplus = 0, by halving in log nu.

    `surplus` is the mean of E log u - E u; at the limits the nearest.
    """
    low, high = (torch.full_like(old, math.log(v)) for v in DEGREES)
    for _ in range(50):
        half = ((low + high) / 2).exp() / 2
        above = half.log() + 1 - torch.digamma(half) + surplus > 0  # falls with nu: the root lies above
        middle = (low + high) / 2
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return ((low + high) / 2).exp()
