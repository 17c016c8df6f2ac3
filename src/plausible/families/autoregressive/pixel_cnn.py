r"""PixelCNN: images pixel by pixel, in raster order, by causal convolutions.

    p(x) = prod_{y,x} prod_k p(x_kyx | pixels before (y, x), channels before k of this pixel)

A causal convolutional net turns the pixels before (y, x) into h_yx (`nn.causal`: masked, residual, or gated without
blind spot; dilated; with what mixes all places); `_pixels` says how h_yx and the channels already known become the
parameters of a channel.

Drawing costs the work of one pass over the image: see `nn.causal_steps`.

Expected (benchmarks/pixel_cnn.py): 81.5 nats on fixed binarised MNIST after 57 minutes on one core; 1.01 bits per
dimension on MNIST with 256 levels after 88. Published: 81.30 nats (van den Oord et al., 2016), 80.10 (gated).

References: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks, 2016,
https://arxiv.org/abs/1601.06759. van den Oord et al., Conditional image generation with PixelCNN decoders, 2016,
https://arxiv.org/abs/1606.05328. Ramachandran et al., Fast generation for convolutional autoregressive models, 2017,
https://arxiv.org/abs/1704.06001
"""

from __future__ import annotations

from plausible.base import Module, Traits
from plausible.families.autoregressive._pixels import Pixels
from plausible.neural import Neural
from plausible.nn.causal import GatedNet, MaskedNet
from plausible.nn.causal_steps import steps
from plausible.options import OptionError, estimator, option
from plausible.space import Space

MOST_MIXED = 4096  # places: 17 million numbers a mixing


class _PixelCNN(Pixels):
    """The causal convolutions."""

    def __init__(self, space: Space, n_context: int, components: int, architecture: str, **settings):
        def net(n_in, shape):
            if architecture == "gated":
                return GatedNet(n_in, shape, n_context=n_context, **settings)
            return MaskedNet(n_in, shape, n_context=n_context, residual=architecture == "residual", **settings)

        super().__init__(space, n_context, components, net)

    def net_steps(self, n, c):
        return steps(self.net, n, c)


@estimator
class PixelCNN(Neural):
    """PixelCNN: exact density of images, grey or colour, bits, levels or reals, by causal convolutions.

    References: van den Oord et al., 2016, https://arxiv.org/abs/1606.05328; Salimans et al., PixelCNN++, 2017,
    https://arxiv.org/abs/1701.05517

    Examples:
        >>> import numpy as np, plausible as pl
        >>> tone = np.random.default_rng(0).integers(0, 2, (500, 1, 1))
        >>> images = np.repeat(np.repeat(tone, 3, 1), 3, 2).astype(np.uint8)  # all black or all white
        >>> model = pl.PixelCNN(channels=8, blocks=1, epochs=15, learning_rate=0.02, random_state=0).fit(images)
        >>> round(model.score(images), 1)  # one fair coin: -log 2
        -0.7
    """

    architecture: str = option(
        "gated", "of the causal net: without blind spot, or a single stack", choices=("gated", "residual", "masked")
    )
    channels: int = option(32, "of the convolutions", low=1)
    blocks: int = option(4, "layers or blocks that follow the first one", low=0)
    dilations: tuple[int, ...] = option((1, 2, 4), "of the convolutions that follow the first one, in turn", low=1)
    mixing: int = option(0, "channels mixed over all places, after the last block and every fourth before it", low=0)
    components: int = option(5, "mixture components of real and many-levelled pixels", low=1)
    dropout: float = option(0.0, "share of hidden units dropped while training", low=0, below=1)

    traits = Traits(
        density="exact",
        events=frozenset({"image"}),
        context=True,
        conditionals=True,
        streams=True,
        given="in_order",
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        if not self.dilations:
            raise OptionError(
                "PixelCNN(dilations=()): expected at least one; (1,) has the taps of a kernel side by side"
            )
        if self.mixing and not self.blocks:
            raise OptionError(f"PixelCNN(mixing={self.mixing}, blocks=0): mixing comes after blocks; give one at least")
        _, height, width = space.shape
        if self.mixing and height * width > MOST_MIXED:
            raise OptionError(
                f"PixelCNN(mixing={self.mixing}) learns a number for each pair of places, and so takes images "
                f"of at most {MOST_MIXED:,} of them; these have {height} x {width}: leave mixing at 0, or make the "
                "images smaller"
            )
        return _PixelCNN(
            space,
            context_space.dims,
            self.components,
            self.architecture,
            channels=self.channels,
            blocks=self.blocks,
            dilations=self.dilations,
            mixing=self.mixing,
            dropout=self.dropout,
        )
