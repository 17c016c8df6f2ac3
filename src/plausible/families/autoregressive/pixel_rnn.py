r"""PixelRNN: images pixel by pixel, in raster order, by long short-term memories (LSTM) that run over the image.

    p(x) = prod_{y,x} prod_k p(x_kyx | pixels before (y, x), channels before k of this pixel)

A recurrent net turns the pixels before (y, x) into h_yx (`nn.recurrent`: row by row, or along the diagonals from both
sides, with residual connections); `_pixels` says how h_yx and the channels already known become the parameters of a
channel. What PixelCNN reaches by depth or by mixing, one layer over the diagonals has at once: all pixels before.

Drawing costs the work of one pass over the image: see `nn.recurrent_steps`.

Expected on fixed binarised MNIST: 80.75 nats with one layer over the diagonals (32 channels), 79.20 with seven (16
channels), as published (van den Oord et al., 2016, table 4). That takes hours; seen so far, with one layer of 16
channels: 93.0 nats after two epochs of 20,000 images (benchmarks/pixel_cnn.py --family pixel_rnn --architecture
diagonal --channels 16 --blocks 1 --minutes 1.5 --examples 20000 --test 500 --epochs 6).

Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks, 2016,
https://arxiv.org/abs/1601.06759
"""

from __future__ import annotations

from plausible.base import Module, Traits
from plausible.families.autoregressive._pixels import Pixels
from plausible.neural import Neural
from plausible.nn.recurrent import RecurrentNet
from plausible.nn.recurrent_steps import RecurrentSteps
from plausible.options import estimator, option
from plausible.space import Space


class _PixelRNN(Pixels):
    """The recurrent nets."""

    def __init__(self, space: Space, n_context: int, architecture: str, channels, layers, components, dropout):
        def net(n_in, shape):
            diagonal = architecture == "diagonal"
            return RecurrentNet(n_in, shape, channels, layers, diagonal=diagonal, n_context=n_context, dropout=dropout)

        super().__init__(space, n_context, components, net)

    def net_steps(self, n, c):
        return RecurrentSteps(self.net, n, c)


@estimator
class PixelRNN(Neural):
    """PixelRNN: exact density of images, grey or colour, bits, levels or reals, by recurrent nets over the image.

    References: van den Oord et al., 2016, https://arxiv.org/abs/1601.06759

    Examples:
        >>> import numpy as np, plausible as pl
        >>> tone = np.random.default_rng(0).integers(0, 2, (500, 1, 1))
        >>> images = np.repeat(np.repeat(tone, 3, 1), 3, 2).astype(np.uint8)  # all black or all white
        >>> model = pl.PixelRNN(channels=8, layers=1, epochs=15, learning_rate=0.02, random_state=0).fit(images)
        >>> round(model.score(images), 1)  # one fair coin: -log 2
        -0.7
    """

    architecture: str = option(
        "diagonal", "what the LSTMs run over: the diagonals from both sides, or the rows", choices=("diagonal", "row")
    )
    channels: int = option(16, "of the states of each layer", low=1)
    layers: int = option(3, "recurrent layers", low=1)
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
        return _PixelRNN(
            space, context_space.dims, self.architecture, self.channels, self.layers, self.components, self.dropout
        )
