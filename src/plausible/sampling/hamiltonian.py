r"""Hamiltonian Monte Carlo that chooses its own path length: multinomial NUTS.

    H(x, p) = -log p(x) + 1/2 p' V p,    leapfrog: p += e/2 grad, x += e V p, p += e/2 grad

A trajectory doubles, forwards or backwards at random, until its ends approach each other: with rho the sum of the
momenta of a (sub)trajectory, until p_left' V rho <= 0 or p_right' V rho <= 0. The draw is a point of it with
probability proportional to exp(-H), taken from the newer half with preference (biased progressive sampling). The step
size e comes from dual averaging of the mean acceptance along trajectories, the metric V (variances) from windows of
warm-up.

The recursion is unrolled: inside a doubling, the momenta at the left ends of the open balanced subtrees wait in a stack
with one place per level, so that every chain is at some leaf of some tree and *one* batched gradient moves them all. No
chain waits for another: one that finishes its tree begins the next while others are still climbing.

References: Hoffman and Gelman, The No-U-Turn Sampler, JMLR 2014. Betancourt, A Conceptual Introduction to Hamiltonian
Monte Carlo, 2017, https://arxiv.org/abs/1701.02434, appendix A (multinomial sampling, the criterion). Phan, Pradhan and
Jankowiak, NumPyro, 2019, https://arxiv.org/abs/1912.11554 (the iterative form).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plausible.errors import DataError
from plausible.sampling._density import LogDensity, Target, count, starts
from plausible.sampling._run import Warmup, generators, interrupted, reasonable_step
from plausible.sampling.metropolis import check_share
from plausible.sampling.result import Draws

DIVERGED = 1000.0  # an energy error of so many nats: the integrator has left the level set (Stan's choice)


def leapfrog(target: Target, x, p, slope, step, variance):
    """Return x, p, log p(x) and its gradient one step on; `step` is (C, 1) and negative backwards in time."""
    p = p + 0.5 * step * slope
    x = x + step * variance * p
    log_p, slope = target.with_gradient(x)
    return x, p + 0.5 * step * slope, log_p, slope


def nuts(
    log_density: LogDensity,
    start: Any,
    n: int,
    *,
    gradient: LogDensity | None = None,
    step_size: float | None = None,
    target_accept: float = 0.8,
    max_depth: int = 10,
    chains: int | None = None,
    warmup: int | None = None,
    random_state: Any = None,
) -> Draws:
    """Draw by the No-U-Turn sampler, all chains in one batch: the first choice where the density has a gradient.

    Args:
        log_density: log p up to a constant, of points (chains, D) on the whole of R^D; written in torch, for its
            gradient. A bounded coordinate should be mapped to the line, with the log-determinant added.
        start: one point (D,) for all chains, or a point per chain (chains, D).
        n: draws of each chain.
        gradient: of the log-density, takes and returns (chains, D); None asks torch's autograd.
        step_size: of the leapfrog; None learns it, and the metric, in warm-up. Given, the metric is one.
        target_accept: mean acceptance that the step is learned for; higher is slower and copes with more curvature.
        max_depth: trajectories have at most 2^max_depth - 1 steps.
        chains: how many, where `start` is one point (4).
        warmup: steps of each chain that are thrown away and adapted in (by default min(n, 1000), at least 200).
        random_state: seed of everything random.

    Raises:
        DataError: the density is zero or NaN at the start, has no gradient, or has not one value per point.

    Examples:
        >>> from plausible import sampling
        >>> draws = sampling.nuts(lambda x: -0.5 * (x**2).sum(1), [3.0, -3.0], 500, random_state=0)
        >>> bool(draws.r_hat().max() < 1.01), bool(draws.ess().min() > 500)
        (True, True)
    """
    n, max_depth = count(n, "n"), count(max_depth, "max_depth")
    warmup = count(max(200, min(n, 1000)) if warmup is None else warmup, "warmup", 0)
    check_share(target_accept)
    if step_size is not None and not step_size > 0:
        raise DataError(f"step_size must be positive, got {step_size!r}")
    target = Target(log_density, gradient)
    rng = generators(random_state)[0]
    x = starts(start, chains, target)
    trees = _Trees(target, x, max_depth, rng)
    with np.errstate(over="ignore", invalid="ignore"):  # a trajectory that leaves for infinity is told by its energy
        step = trees.first_step() if step_size is None else np.full(len(x), float(step_size))
        warm = Warmup(step, x.shape[1], warmup, target_accept)
        trees.step = step.copy()
        return _collect(trees, warm, n, warmup, step_size is None)


def _collect(trees: _Trees, warm: Warmup, n: int, warmup: int, learns: bool) -> Draws:
    """Let all chains climb; note each draw when its tree is complete."""
    chains, dims = trees.x.shape
    draws, log_p = np.empty((chains, n, dims)), np.empty((chains, n))
    accepted, leaps, diverged, deepest = (np.zeros(chains) for _ in range(4))
    done = np.zeros(chains, dtype=int)
    said: list[str] = []
    trees.begin(np.arange(chains))
    try:
        while len(trees.x):
            over = trees.advance()
            if not len(over):
                continue
            trees.x[over], trees.log_p[over], trees.slope[over] = trees.chosen(over)
            mean_accept = trees.accept[over] / trees.leaps[over]
            chain = trees.chain[over]
            early = done[chain] < warmup
            if learns and early.any():
                warm.update(chain[early], mean_accept[early], trees.x[over[early]])
                trees.step[over], trees.variance[over] = warm.step[chain], warm.variance[chain]
            late = ~early & (done[chain] < warmup + n)
            who, at = over[late], chain[late]
            draws[at, done[at] - warmup], log_p[at, done[at] - warmup] = trees.x[who], trees.log_p[who]
            accepted[at] += mean_accept[late]
            leaps[at] += trees.leaps[who]
            diverged[at] += trees.diverged[who]
            deepest[at] += trees.depth[who] >= trees.max_depth
            done[chain] += 1
            trees.begin(over)
            # Chains that are done climb on for nothing, until it pays to copy the others.
            left = done[trees.chain] < warmup + n
            if 2 * left.sum() <= len(left):
                trees.keep(left.nonzero()[0])
    except KeyboardInterrupt:
        n = min(max(int(done.min()) - warmup, 0), n)
        said = interrupted(n, draws.shape[1])
    if deepest.sum():
        said.append(f"{deepest.sum():.0f} trajectories reached max_depth={trees.max_depth} before they turned")
    kept = np.clip(done - warmup, 1, draws.shape[1])
    return Draws(
        "NUTS",
        draws[:, :n].copy(),
        log_p[:, :n].copy(),
        accepted / kept,
        diverged.astype(int),
        trees.target.evaluations,
        {"step_size": warm.step.copy(), "variance": warm.variance.copy(), "mean_leaps": leaps / kept},
        tuple(said),
    )


class _Trees:
    """The trajectories of C chains, each with its own tree.

    x, log_p, slope are the states that the trees grew from. Of each tree: both ends, the sum rho of its momenta, the
    log of its total weight relative to the start, and the point chosen so far. Of the subtree being built on one side:
    the same (`sub_`), its present end (`now_`), the number of its leaves so far, and the stack of open balanced
    subtrees.
    """

    def __init__(self, target: Target, x: np.ndarray, max_depth: int, rng: np.random.Generator):
        self.target, self.rng, self.max_depth = target, rng, max_depth
        self.x = x.copy()
        self.log_p, self.slope = target.with_gradient(self.x, strict=True)
        c, d = x.shape
        self.chain = np.arange(c)  # whose trajectory each row is
        self.step, self.variance = np.ones(c), np.ones((c, d))
        self.ends = np.empty((3, 2, c, d))  # x, p, slope at the left and the right end
        self.now = np.empty((3, c, d))
        self.rho, self.sub_rho = np.empty((c, d)), np.empty((c, d))
        self.pick_x, self.pick_slope, self.pick_log_p = np.empty((c, d)), np.empty((c, d)), np.empty(c)
        self.sub_x, self.sub_slope, self.sub_log_p = np.empty((c, d)), np.empty((c, d)), np.empty(c)
        self.log_w, self.sub_log_w, self.joint = np.empty(c), np.empty(c), np.empty(c)
        self.side, self.depth, self.leaf = (np.zeros(c, dtype=int) for _ in range(3))
        self.accept, self.leaps = np.zeros(c), np.zeros(c)
        self.diverged = np.zeros(c, dtype=bool)
        self.stack_p, self.stack_rho = np.zeros((max_depth, c, d)), np.zeros((max_depth, c, d))
        # Of the leaf with number i: the level of its subtree on the stack, and the levels it closes.
        leaf = np.arange(2**max_depth >> 1 or 1)
        bits = np.array([bin(i >> 1).count("1") for i in leaf.tolist()])
        trailing = np.array([(~i & (i + 1)).bit_length() - 1 for i in leaf.tolist()])
        self.level, self.lowest = bits, bits - trailing + 1

    def keep(self, who: np.ndarray) -> None:
        """Drop all rows but `who`."""
        for name in ("ends", "now", "stack_p", "stack_rho"):
            setattr(self, name, np.ascontiguousarray(getattr(self, name)[..., who, :]))
        for name in ("x", "log_p", "slope", "chain", "step", "variance", "rho", "sub_rho", "pick_x", "pick_slope"):
            setattr(self, name, getattr(self, name)[who])
        for name in ("pick_log_p", "sub_x", "sub_slope", "sub_log_p", "log_w", "sub_log_w", "joint"):
            setattr(self, name, getattr(self, name)[who])
        for name in ("side", "depth", "leaf", "accept", "leaps", "diverged"):
            setattr(self, name, getattr(self, name)[who])

    def _kinetic(self, p: np.ndarray, who=slice(None)) -> np.ndarray:
        return 0.5 * (p * p * self.variance[who]).sum(-1)

    def first_step(self) -> np.ndarray:
        p = self.rng.standard_normal(self.x.shape)

        def leap(step):
            _, q, log_p, _ = leapfrog(self.target, self.x, p, self.slope, step[:, None], self.variance)
            return log_p - self._kinetic(q)

        return reasonable_step(leap, self.log_p - self._kinetic(p), len(p))

    def begin(self, who: np.ndarray) -> None:
        """Draw fresh momenta for the chains `who` and plant their trees."""
        p = self.rng.standard_normal((len(who), self.x.shape[1])) / np.sqrt(self.variance[who])
        self.joint[who] = self.log_p[who] - self._kinetic(p, who)
        self.ends[:, :, who] = np.stack([self.x[who], p, self.slope[who]])[:, None]
        self.rho[who] = p
        self.pick_x[who], self.pick_log_p[who], self.pick_slope[who] = self.x[who], self.log_p[who], self.slope[who]
        self.log_w[who] = 0.0
        self.depth[who] = self.accept[who] = self.leaps[who] = 0
        self.diverged[who] = False
        self._extend(who)

    def _extend(self, who: np.ndarray) -> None:
        """Begin to double the trees of `who`, on a side drawn at random."""
        side = self.rng.integers(0, 2, len(who))
        self.side[who] = side
        self.now[:, who] = self.ends[:, side, who]
        self.leaf[who] = 0
        self.sub_log_w[who] = -np.inf
        self.sub_rho[who] = 0.0

    def chosen(self, who: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.pick_x[who], self.pick_log_p[who], self.pick_slope[who]

    def advance(self) -> np.ndarray:
        """Move every chain by one leapfrog; return the indices of those whose tree is complete."""
        x, p, slope = self.now
        signed = np.where(self.side == 1, self.step, -self.step)[:, None]
        x, p, log_p, slope = leapfrog(self.target, x, p, slope, signed, self.variance)
        self.now[0], self.now[1], self.now[2] = x, p, slope
        log_w = log_p - self._kinetic(p) - self.joint
        log_w = np.where(np.isnan(log_w), -np.inf, log_w)
        diverged = log_w < -DIVERGED
        self.diverged |= diverged
        self.accept += np.exp(np.minimum(log_w, 0.0))
        self.leaps += 1
        # Multinomial choice inside the subtree, leaf by leaf.
        self.sub_log_w = np.logaddexp(self.sub_log_w, log_w)
        u = self.rng.random(len(log_w))
        take = (u < np.exp(log_w - self.sub_log_w)).nonzero()[0]
        self.sub_x[take], self.sub_log_p[take], self.sub_slope[take] = x[take], log_p[take], slope[take]
        self.sub_rho += p
        turned = self._closes(p)
        self.leaf += 1
        whole = ((self.leaf >= 1 << self.depth) & ~turned & ~diverged).nonzero()[0]
        over = turned | diverged
        if len(whole):
            over[whole] = self._merge(whole)
            again = whole[~over[whole]]
            if len(again):
                self._extend(again)
        return over.nonzero()[0]

    def _closes(self, p: np.ndarray) -> np.ndarray:
        """Put an even leaf on the stack; ask of each balanced subtree that an odd one closes whether it has turned."""
        level = self.level[self.leaf]
        even = self.leaf & 1 == 0
        who = even.nonzero()[0]
        self.stack_p[level[who], who], self.stack_rho[level[who], who] = p[who], self.sub_rho[who]
        turned = np.zeros(len(p), dtype=bool)
        who = (~even).nonzero()[0]
        lowest = self.lowest[self.leaf]
        while len(who):
            k = level[who]
            first = self.stack_p[k, who]
            rho = self.sub_rho[who] - self.stack_rho[k, who] + first
            turned[who] |= self._turning(first, p[who], rho, who)
            level[who] -= 1
            who = who[(level[who] >= lowest[who]) & ~turned[who]]
        return turned

    def _turning(self, first: np.ndarray, last: np.ndarray, rho: np.ndarray, who: np.ndarray) -> np.ndarray:
        """Whether a trajectory turns back; its end momenta count half in rho, which then is the integral over time."""
        v = self.variance[who] * (rho - 0.5 * (first + last))
        return ~(((first * v).sum(1) > 0) & ((last * v).sum(1) > 0))

    def _merge(self, who: np.ndarray) -> np.ndarray:
        """Join finished subtrees to their trees; return which of these trees are complete."""
        take = who[self.rng.random(len(who)) < np.exp(np.minimum(self.sub_log_w[who] - self.log_w[who], 0.0))]
        self.pick_x[take], self.pick_slope[take] = self.sub_x[take], self.sub_slope[take]
        self.pick_log_p[take] = self.sub_log_p[take]
        self.log_w[who] = np.logaddexp(self.log_w[who], self.sub_log_w[who])
        self.rho[who] += self.sub_rho[who]
        self.ends[:, self.side[who], who] = self.now[:, who]
        self.depth[who] += 1
        left, right = self.ends[1, 0, who], self.ends[1, 1, who]
        return self._turning(left, right, self.rho[who], who) | (self.depth[who] >= self.max_depth)
