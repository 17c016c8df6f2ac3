"""The inside of a family: the mathematics as a torch module, and what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

Density = Literal["exact", "lower_bound", "upper_bound", "estimate"]
BOUND_SAMPLES = 16  # noises averaged over in a bound that has noise


@dataclass(frozen=True)
class Traits:
    """What a family can do, and how exactly.

    Args:
        density: what its ``log_prob`` is, or None if it has none.
        events: types of the spaces it can model.
        kinds: kinds of the columns it can model.
        context: whether it models p(x | c).
        missing: whether it fits and scores examples with missing cells, exactly.
        marginals: whether it scores examples with missing cells, exactly, though it needs complete ones to fit.
        prefixes: whether it fits and scores series and audio that end early, exactly.
        given: how it draws the rest of a partly known example; 'exact' promises `sample_given` of its module,
            'in_order' the same where all that is missing comes after all that is known, 'approximate' promises its
            `propose_given`, as does 'in_order'.
        latent: whether it has a latent code.
        conditionals: whether it offers p(x_d | x_<d) step by step.
        streams: whether it can be fitted chunk by chunk on a file larger than memory.
        dependence: whether it models how dimensions depend on each other; a product of columns does not.
    """

    density: Density | None
    events: frozenset[str] = frozenset({"table", "image", "series"})
    kinds: frozenset[str] = frozenset({"binary", "categorical", "ordinal", "count", "real"})
    context: bool = False
    missing: bool = False
    marginals: bool = False
    prefixes: bool = False
    given: Literal["exact", "in_order", "approximate"] | None = None
    latent: bool = False
    conditionals: bool = False
    streams: bool = False
    dependence: bool = True


class Module(nn.Module):
    """The mathematics of a family, in model space. It answers those of these that its traits promise.

    z has shape (n, \\*event), c (features of the context) has shape (n, F); rng is a ``torch.Generator`` or `RowNoise`.

    More that free functions of `plausible.uses` ask for, where there is an exact answer: ``sample_given(z, c, rng=)``
    draws the cells of z that are NaN from p(missing | known) and leaves the others as they are; ``likely_given(z, c)``
    puts their jointly most likely values there; ``moments_given(z, c)`` returns the mean (n, D) and the covariance
    (n, D, D) of z given its known cells, NaN of cells it does not know them of. Where there is no exact answer:
    ``propose_given(z, c, rng=)`` fills the NaN cells from some proposal and returns log w (n,) beside it, with
    E[w f(z)] = p(known) E[f(z) | known] for every f.
    """

    variable_buffers: ClassVar[tuple[str, ...]] = ()  # those whose shape depends on the data
    bound_samples: ClassVar[int] = BOUND_SAMPLES  # noises that `log_prob` of an example is averaged over

    def __init__(self):
        super().__init__()
        self.context_encoder: nn.Module | None = None  # of a context that is no table; the shell puts it here

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in: that of its parameters; statistics without any are double."""
        return next((p.dtype for p in self.parameters()), torch.float64)

    @property
    def n_parameters(self) -> int:
        """The number of free parameters of p(z | c), without those of an encoder."""
        return _n_free(self) - _n_free(self.context_encoder)

    @property
    def n_learned(self) -> int:
        """The number of free parameters in all."""
        return self.n_parameters + _n_free(self.context_encoder)

    @property
    def heavy(self) -> bool:
        """Whether to evaluate in double precision would take far longer: by default, if it has convolutions."""
        return any(isinstance(m, nn.modules.conv._ConvNd) for m in self.own_modules())

    @property
    def trains_in_loops(self) -> bool:
        """Whether most of its training is compiled loops, which want the threads of torch for themselves."""
        return False

    def own_modules(self) -> Iterator[nn.Module]:
        """All modules but those of the encoder, which is evaluated apart."""
        return (m for name, m in self.named_modules() if name.partition(".")[0] != "context_encoder")

    def encode_context(self, c: torch.Tensor | None) -> torch.Tensor | None:
        """Return features (n, F) of a context: c itself, or what the encoder makes of codes c."""
        return c if c is None or self.context_encoder is None else self.context_encoder(c)

    def look(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """See training examples (n, \\*event) before the first step; by default nothing is made of them."""

    def log_prob(self, z: torch.Tensor, c: torch.Tensor | None = None, rng=None) -> torch.Tensor:
        """Return log p(z | c), or a bound on it, in nats, with shape (n,)."""
        raise TypeError(f"{type(self).__name__} has no density")

    def log_weight(self, z: torch.Tensor, c: torch.Tensor | None = None, rng=None) -> torch.Tensor:
        """Return log w with E[w] = p(z | c) over the noise of rng, with shape (n,). Exact densities need no noise."""
        return self.log_prob(z, c, rng)

    def loss(self, z: torch.Tensor, c: torch.Tensor | None = None, *, rng=None) -> torch.Tensor:
        """Return what training minimises, one value per example, with shape (n,)."""
        return -self.log_prob(z, c, rng)

    def sample(self, n: int, c: torch.Tensor | None = None, *, rng: torch.Generator) -> torch.Tensor:
        """Return n draws, with shape (n, \\*event)."""
        raise TypeError(f"{type(self).__name__} cannot sample")


def _n_free(module: nn.Module | None) -> int:
    """Parameters that are learned, without those that a part says a mask makes no use of (``n_masked``)."""
    if module is None:
        return 0
    masked = sum(getattr(part, "n_masked", 0) for part in module.modules())
    return sum(p.numel() for p in module.parameters() if p.requires_grad) - masked
