r"""Nearest neighbours, exactly: trees in few dimensions, matrix products beyond.

In many dimensions the squared distances |x - y|^2 of a tile come from one product of single precision. Of every group
of `GROUP` rows only the smallest is kept; the k nearest rows are in the k groups whose smallest are smallest, and their
distances are computed again in double precision. Rounding could hide a neighbour only if a group that was left out
comes within the error of the product of the k-th distance found; such rows are searched again in double.
"""

from __future__ import annotations

import torch

from plausible.randomness import row_hash

FEW = 8  # dimensions up to which a tree is faster
GROUP = 8
QUERIES, ROWS = 256, 4096  # of a tile
SPARE = 2  # groups looked at beyond k
ERROR = 4e-7  # of a product of single precision, relative to (|x| + |y|)^2


def distinct(z: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that differ, and the weight of each: equal rows become one; rows without weight go."""
    w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight.double()
    z, w = z[w > 0], w[w > 0]
    _, which = torch.unique(row_hash(z), return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(z), dtype=torch.long, device=z.device)
    first.scatter_reduce_(0, which, torch.arange(len(z), device=z.device), "amin")
    if not torch.equal(z[first[which]], z):  # two rows of one hash, once in many centuries
        rows, which = torch.unique(z, dim=0, return_inverse=True)
    else:
        first, order = first.sort()  # in the order in which they came
        which = order.argsort()[which]
        rows = z[first]
    return rows, torch.zeros(len(rows), dtype=w.dtype, device=w.device).index_add_(0, which, w)


def neighbours(
    x: torch.Tensor, y: torch.Tensor, k: int, own: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (q, k) to the k nearest rows of y, ascending, and which they are (q, k).

    Args:
        x, y: (q, D) and (n, D), double precision.
        k: at most n, or n - 1 with `own`.
        own: (q,) the row of y that a row of x is, and that is no neighbour of itself.
    """
    if own is not None:
        distance, which = neighbours(x, y, k + 1)
        itself = which == own[:, None]
        itself[:, -1] |= ~itself.any(1)  # among copies of itself a row may not be the nearest that was found
        return distance[~itself].view(len(x), k), which[~itself].view(len(x), k)
    if x.shape[1] <= FEW or len(y) < 2048:
        return _by_tree(x, y, k)
    return _by_products(x, y, k)


def _by_tree(x, y, k):
    from sklearn.neighbors import NearestNeighbors

    how = "kd_tree" if x.shape[1] <= FEW else "brute"
    model = NearestNeighbors(n_neighbors=k, algorithm=how, leaf_size=20).fit(y.cpu().numpy())
    which = torch.from_numpy(model.kneighbors(x.cpu().numpy(), return_distance=False)).to(x.device)
    return _sorted(x, y, which, k)


def _sorted(x, y, which, k):
    """The k nearest of the candidates (q, c), by distances from differences."""
    parts = []
    for rows in torch.arange(len(x), device=x.device).split(max(4_000_000 // (which.shape[1] * x.shape[1]), 1)):
        square = (x[rows, None] - y[which[rows]]).square_().sum(2)
        found, place = square.topk(k, dim=1, largest=False)
        parts.append((found.sqrt(), which[rows].gather(1, place)))
    return tuple(torch.cat(p) for p in zip(*parts, strict=True)) if parts else (x.new_zeros(0, k), which[:0, :k])


def _by_products(x, y, k):
    centre = y.mean(0)
    x, y = x - centre, y - centre
    distance, which, sure = _screened(x, y, k, torch.float32)
    unsure = (~sure).nonzero()[:, 0]
    if len(unsure):
        again = _screened(x[unsure], y, k, torch.float64)
        distance[unsure], which[unsure] = again[0], again[1]
    return distance, which


def _screened(x, y, k, dtype):
    """Distances, rows, and whether they are the nearest beyond doubt."""
    n, dims = y.shape
    tiles = -(-n // ROWS)
    per_tile = ROWS // GROUP
    padded = torch.full((tiles * ROWS, dims), torch.inf, dtype=y.dtype, device=y.device)
    padded[:n] = y
    # A group is every (ROWS / GROUP)-th row of a tile, so that minima run along memory, and a block of memory here.
    blocks = padded.view(tiles, GROUP, per_tile, dims).transpose(1, 2).reshape(-1, GROUP, dims).clone()
    squares = padded.square().sum(1).to(dtype)
    padded[n:] = 0  # infinity times zero is no number; the squares are enough
    doubled = -2 * padded.to(dtype)
    farthest = y.square().sum(1).max().sqrt()
    take = min(k + SPARE, len(blocks))
    work = torch.empty(QUERIES * ROWS, dtype=dtype, device=y.device)
    smallest = torch.empty(QUERIES, len(blocks), dtype=dtype, device=y.device)
    out = []
    for rows in torch.arange(len(x), device=x.device).split(QUERIES):
        q, best = x[rows].to(dtype), smallest[: len(rows)]
        tile = work[: len(rows) * ROWS].view(len(rows), ROWS)
        for t in range(tiles):
            part = slice(t * ROWS, (t + 1) * ROWS)
            torch.addmm(squares[part], q, doubled[part].T, out=tile)
            best[:, t * per_tile : (t + 1) * per_tile] = tile.view(len(rows), GROUP, per_tile).amin(1)
        near, chosen = best.topk(min(take + 1, len(blocks)), dim=1, largest=False)
        limit = near[:, -1] if take < len(blocks) else torch.full_like(near[:, -1], torch.inf)
        found, which = _within(x[rows], blocks, chosen[:, :take], k)
        norm = x[rows].square().sum(1)
        doubt = ERROR * (norm.sqrt() + farthest).square() * (1.0 if dtype == torch.float32 else 1e-8)
        out.append((found.sqrt(), which, limit.double() + norm - doubt >= found[:, -1]))
    return tuple(torch.cat(p) for p in zip(*out, strict=True))


def _within(x, blocks, chosen, k):
    """Squared distances to the k nearest rows of the chosen groups, and which rows they are."""
    parts = []
    size = chosen.shape[1] * GROUP * x.shape[1]
    for rows in torch.arange(len(x), device=x.device).split(max(4_000_000 // size, 1)):
        square = (blocks[chosen[rows]] - x[rows, None, None]).square_().sum(3)  # (q, groups, rows of a group)
        parts.append(square.flatten(1).topk(k, dim=1, largest=False))
    found, place = (torch.cat(p) for p in zip(*parts, strict=True))
    group, i = chosen.gather(1, place // GROUP), place % GROUP
    per_tile = ROWS // GROUP
    return found, group // per_tile * ROWS + i * per_tile + group % per_tile
