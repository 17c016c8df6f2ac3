r"""Exact inference in a chain of hidden states s_1 .. s_T: filter, smooth, draw, and the most likely path.

    p(x, s) = pi(s_1) prod_t A_t(s_{t-1}, s_t) prod_t b_t(s_t),    b_t(s) = p(x_t | s)

    filter:  alpha_t(j) = p(s_t = j | x_1 .. x_t) = p_t(j) b_t(j) / sum_i p_t(i) b_t(i),    p_t = alpha_{t-1} A_t
    smooth:  gamma_t(i) = p(s_t = i | x) = alpha_t(i) sum_j A_{t+1}(i, j) gamma_{t+1}(j) / p_{t+1}(j)

The normalisers of the filter multiply to p(x). A step of which nothing is known has b = 1. Nothing underflows in
either recursion, however long the chain: emissions stay in logarithms and all else is a probability.

References: Rabiner, A tutorial on hidden Markov models, 1989. Chib, Calculating posterior distributions and modal
estimates in Markov mixture models, 1996 (the draw).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TINY = 1e-300


@dataclass
class Chain:
    """A chain of S states over T steps.

    Args:
        start: pi, (S,).
        transition: A, (S, S) for all steps, or (T - 1, S, S) for each.
    """

    start: torch.Tensor
    transition: torch.Tensor

    def _to(self, t: int) -> torch.Tensor:
        """The transition into step t, counted from 0."""
        return self.transition if self.transition.dim() == 2 else self.transition[t - 1]

    def filter(self, log_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log b (n, T, S) -> log p(x) (n,) and alpha (n, T, S)."""
        log_p, alpha = torch.zeros(len(log_b), dtype=log_b.dtype, device=log_b.device), torch.empty_like(log_b)
        ahead = self.start.expand(len(log_b), -1)
        for t in range(log_b.shape[1]):
            joint = ahead.log() + log_b[:, t]
            norm = joint.logsumexp(1)
            log_p += norm
            # What is impossible leaves nothing to normalise: -inf is the answer, whatever follows.
            alpha[:, t] = torch.where(norm.isinf()[:, None], ahead, (joint - norm[:, None]).exp())
            if t + 1 < log_b.shape[1]:
                ahead = alpha[:, t] @ self._to(t + 1)
        return log_p, alpha

    def smooth(self, alpha: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha (n, T, S) -> gamma (n, T, S), and the expected numbers of transitions, of the shape of `transition`.

        Args:
            alpha: of `filter`.
            weight: (n, T) of the transition into each step, in those numbers.
        """
        gamma, counts = alpha.clone(), torch.zeros_like(self.transition)
        for t in reversed(range(1, alpha.shape[1])):
            a = self._to(t)
            ratio = gamma[:, t] / (alpha[:, t - 1] @ a).clamp_min(TINY)
            expected = a * ((alpha[:, t - 1] * weight[:, t, None]).T @ ratio)
            if counts.dim() == 2:
                counts += expected
            else:
                counts[t - 1] = expected
            gamma[:, t - 1] = alpha[:, t - 1] * (ratio @ a.T)
        return gamma, counts

    def draw(self, alpha: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Draw paths from p(s | x), from the last step back: alpha and uniforms (n, T) -> states (n, T)."""
        n, steps, _ = alpha.shape
        s = torch.empty(n, steps, dtype=torch.long, device=alpha.device)
        p = alpha[:, -1]
        for t in reversed(range(steps)):
            s[:, t] = _inverted(p, u[:, t])
            if t:
                p = alpha[:, t - 1] * self._to(t)[:, s[:, t]].T
        return s

    def likely(self, log_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Viterbi: log b (n, T, S) -> the most likely path (n, T), and log p(x, path) (n,)."""
        n, steps, _ = log_b.shape
        best = self.start.log() + log_b[:, 0]
        back = []
        for t in range(1, steps):
            score, came = (best[:, :, None] + self._to(t).log()).max(1)
            back.append(came)
            best = score + log_b[:, t]
        path = torch.empty(n, steps, dtype=torch.long, device=log_b.device)
        log_p, path[:, -1] = best.max(1)
        for t in reversed(range(1, steps)):
            path[:, t - 1] = back[t - 1].gather(1, path[:, t : t + 1])[:, 0]
        return path, log_p

    def sample(self, u: torch.Tensor) -> torch.Tensor:
        """Draw paths from p(s): uniforms (n, T) -> states (n, T)."""
        s = torch.empty(u.shape, dtype=torch.long, device=u.device)
        p = self.start.expand(len(u), -1)
        for t in range(u.shape[1]):
            s[:, t] = _inverted(p, u[:, t])
            if t + 1 < u.shape[1]:
                p = self._to(t + 1)[s[:, t]]
        return s


def _inverted(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Draw from weights p (n, S), which need not add up to one, by inversion of u (n,)."""
    below = p.cumsum(1)
    s = (u[:, None] * below[:, -1:] >= below[:, :-1]).sum(1)
    return s
