r"""Variational autoencoder: a latent code h, a decoder p(x | h), and an encoder q(h | x) that infers h.

    p(x) = integral p(h) p(x | h) dh,    p(h) = N(0, I),    q(h | x) = N(mu(x), diag sigma(x)^2)

    log p(x) >= ELBO(x) = E_q[ log p(x | h) ] - KL(q(h | x) || p(h))
    KL = 1/2 sum_l (mu_l^2 + sigma_l^2 - 1 - 2 log sigma_l)

p(x | h) = prod_d p(x_d | h): the decoder puts out the parameters of a head per column. Training takes one h = mu + sigma e,
e ~ N(0, I), per example. With w = p(x, h) / q(h | x), E_q[w] = p(x): the mean of k such weights estimates p(x), and the
log of that mean is a lower bound that rises with k to log p(x) (importance weighting).

References: Kingma and Welling, Auto-encoding variational Bayes, 2014, https://arxiv.org/abs/1312.6114
Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016, https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math

import torch

from plausible.base import Module, Traits
from plausible.heads import N_UNIFORMS, Heads
from plausible.neural import Neural
from plausible.nn import MLP
from plausible.options import estimator, option
from plausible.randomness import normal, uniform
from plausible.space import Space


class _VAE(Module):
    """Legend: n examples, D dimensions, L latent dimensions, F features of the context, P parameters of all heads."""

    def __init__(self, space: Space, n_context: int, latent: int, hidden, beta, components, nonlinearity, dropout):
        super().__init__()
        self.latent, self.beta, self.dims = latent, beta, space.dims
        self.heads = Heads(space, components)
        self.encoder = MLP(self.heads.n_features + n_context, 2 * latent, hidden, nonlinearity, dropout)
        self.decoder = MLP(latent + n_context, self.heads.size, hidden[::-1], nonlinearity, dropout)
        with torch.no_grad():
            self.encoder[-1].weight.mul_(0.1)  # start near q = p(h)
            self.encoder[-1].bias.zero_()
            self.decoder[-1].bias.copy_(self.heads.initial())

    def posterior(self, z: torch.Tensor, c: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mu and log sigma of q(h | z), each (n, L)."""
        features = self.heads.features(z.flatten(1))
        return self.encoder(_beside(features, c)).chunk(2, 1)

    def encode(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean code h (n, L)."""
        return self.posterior(z, c)[0]

    def decode(self, h: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the parameters (n, P) of p(z | h)."""
        return self.decoder(_beside(h, c))

    def reconstruction(self, z: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return log p(z | h) with shape (n,)."""
        return self.heads.log_prob(self.decode(h, c), z.flatten(1)).sum(1)

    def _terms(self, z, c, rng) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p(z | h) for one h ~ q, and the KL divergence of q from p(h), each (n,)."""
        mu, log_sigma = self.posterior(z, c)
        h = mu + log_sigma.exp() * normal(rng, tuple(mu.shape), mu)
        return self.reconstruction(z, h, c), kl_from_standard(mu, log_sigma)

    def log_prob(self, z, c=None, rng=None):
        likelihood, kl = self._terms(z, c, rng)
        return likelihood - kl

    def log_weight(self, z, c=None, rng=None):
        mu, log_sigma = self.posterior(z, c)
        e = normal(rng, tuple(mu.shape), mu)
        h = mu + log_sigma.exp() * e
        # log p(h) - log q(h | z): the constants of the two normals cancel
        log_ratio = (log_sigma + 0.5 * (e.square() - h.square())).sum(1)
        return self.reconstruction(z, h, c) + log_ratio

    def loss(self, z, c=None, *, rng=None):
        likelihood, kl = self._terms(z, c, rng)
        return self.beta * kl - likelihood

    def sample(self, n, c=None, *, rng):
        like = self.decoder[-1].weight
        h = normal(rng, (n, self.latent), like)
        u = uniform(rng, (n, self.dims, N_UNIFORMS), like)
        return self.heads.sample(self.decode(h, c), u)


def kl_from_standard(mu: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mu, diag sigma^2) || N(0, I)) in nats: (n, L), (n, L) -> (n,)."""
    return 0.5 * (mu.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(1)


def _beside(x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    return x if c is None else torch.cat([x, c], 1)


@estimator
class VAE(Neural):
    """Variational autoencoder: a lower bound on the likelihood of tables (any columns), images and series.

    ``log_prob`` is the bound; ``log_prob(X, importance_samples=k)`` a tighter one. ``module_.encode`` and
    ``module_.decode`` go between examples and codes. beta != 1 changes what is learned, never what is reported.

    References: Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114. Burda, Grosse and Salakhutdinov, 2016,
    https://arxiv.org/abs/1509.00519
    """

    latent: int = option(16, "dimensions of the code", low=1)
    hidden: tuple[int, ...] = option(
        (256,), "widths of the hidden layers of the encoder; reversed in the decoder", low=1
    )
    beta: float = option(1.0, "weight of the KL term in training; 1 maximises the bound", low=0)
    components: int = option(3, "mixture components of real, count and many-levelled columns", low=1)
    nonlinearity: str = option("relu", "of the hidden units", choices=("relu", "elu", "gelu", "silu", "tanh"))
    dropout: float = option(0.0, "share of hidden units dropped while training", low=0)

    traits = Traits(density="lower_bound", context=True, latent=True)

    def _build(self, space: Space, context_space: Space) -> Module:
        return _VAE(
            space,
            context_space.dims,
            self.latent,
            self.hidden,
            self.beta,
            self.components,
            self.nonlinearity,
            self.dropout,
        )
