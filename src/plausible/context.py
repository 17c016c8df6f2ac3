r"""The c of p(x | c): labels and vectors, or examples of another space through an encoder.

    table                        transforms, then the features of the heads      nothing is learned
    image, text, series, audio   transforms, then an `Encoder`                   learned together with p(x | c)

A family sees features (n, F) either way. An encoder is a part of the module, so that one gradient trains both, and one
file and one checkpoint hold both; whoever calls the module with a context calls `Module.encode_context` before.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from plausible.errors import DataError, SpaceError
from plausible.nn.grid import GridNet
from plausible.space import Audio, Clips, Space, Text, infer
from plausible.transforms import Chain, Standardise

WIDTH = 16  # numbers that stand for a character or another category
FEWEST_TEXTS = 32  # distinct strings: fewer are labels
HEAVY_FROM = 1e7  # multiply-adds an example from which it is encoded in single precision
AT_ONCE = 4_000_000  # values of contexts that are encoded in one go


def infer_context(context: Any, how: str | dict | Space | None = None) -> Space:
    """Work out what the context of one example is; `how` overrides the guess as in `infer`.

    Strings are labels, unless most of them occur once: then they are text.

    Raises:
        DataError: it is none, or the same for all.
    """
    if isinstance(how, Space):
        return how
    if how in ("image", "series", "text", "audio") or _is_grid(context):
        if isinstance(context, str):
            raise DataError("expected a context for each example, got one string")
        space = infer(context, how)
        return Audio.of(max(map(len, context)), space.rate) if isinstance(space, Audio) else space
    if how is None and _is_text(context):
        return infer([str(s) for s in context], "text")
    return infer(_as_table(context), how)


def as_rows(context: Any, space: Space) -> Any:
    """A context, of one example or of several, as `space` encodes it."""
    if space.type == "table":
        return _as_table(context, space.columns[0].name)
    if isinstance(space, Text):
        rows = [context] if isinstance(context, str) else list(context)
        other = next((row for row in rows if not isinstance(row, str)), None)
        if other is not None:
            raise SpaceError(f"expected a context of strings ({space.describe()}), got {type(other).__name__}")
        return rows
    if isinstance(space, Audio):
        longest = max(map(len, context), default=0)
        if longest > space.length:
            raise SpaceError(f"a clip of the context has {longest:,} samples; the model was fitted on {space.length:,}")
    return context


def transforms_of(space: Space) -> Chain:
    """The transforms between codes of a context and what is made into features."""
    return Chain([Standardise(shared=space.type in ("series", "audio"))])


class Encoder(nn.Module):
    """Codes of images, text, series or sound, transformed, as features: (n, \\*shape) -> (n, F).

    Args:
        space: of the transformed codes; all of its columns are of one kind.
        n_features: F.
    """

    def __init__(self, space: Space, n_features: int):
        super().__init__()
        column, shape = space.columns[0], space.shape
        self.levels, self.is_image = column.n_levels, len(shape) == 3
        n_channels, places = (shape[0], shape[1:]) if self.is_image else (space.dims // shape[0], shape[:1])
        self.points = nn.Embedding(column.n_levels, WIDTH) if column.kind == "categorical" else None
        width = 1 if self.points is None else WIDTH
        # Of an image all is known. A sequence may have ended, and a series may have gaps.
        self.net = GridNet(n_channels * (width if self.is_image else width + 1), places, n_features)

    @property
    def heavy(self) -> bool:
        """Whether to encode in double precision would take far longer."""
        return self.net.multiply_adds > HEAVY_FROM

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, like = len(x), self.net.first.weight
        x = x if self.is_image else x.reshape(n, x.shape[1], -1).transpose(1, 2)  # (n, C, *places)
        known = None if self.is_image else ~x.isnan()
        x = x if known is None else torch.nan_to_num(x)
        if self.points is not None:
            e = self.points(x.long()).movedim(-1, 2)  # (n, C, width, *places)
        else:
            e = (x.to(like) * (2 / (self.levels - 1)) - 1 if self.levels else x.to(like)).unsqueeze(2)
        if known is not None:
            e = torch.cat([e * known.unsqueeze(2), known.unsqueeze(2).to(like)], 2)
        return self.net(e.flatten(1, 2))

    @torch.no_grad()
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of a fitted encoder, computed in double precision, so that a row depends on no other."""
        net = self if self.heavy else copy.deepcopy(self).double()
        rows = max(1, AT_ONCE // max(x[0].numel(), 1)) if len(x) else 1
        device = self.net.first.weight.device
        return torch.cat([net(part.to(device)).float() for part in x.split(rows)])


def _is_grid(context: Any) -> bool:
    """Whether it is sound, or an array of more than two dimensions."""
    return isinstance(context, Clips) or getattr(context, "ndim", 0) > 2


def _is_text(context: Any) -> bool:
    if not isinstance(context, (list, tuple, np.ndarray)) or not all(isinstance(s, str) for s in context):
        return False
    return len(set(context)) > max(FEWEST_TEXTS, len(context) / 2)


def _as_table(context: Any, name: str = "context") -> Any:
    """A label per example is a table of one column."""
    import pandas as pd

    ndim = getattr(context, "ndim", 1)
    if isinstance(context, pd.DataFrame) or ndim == 2:
        return context
    if ndim > 2:
        raise SpaceError(f"expected a context of a label or a vector per example, got shape {tuple(context.shape)}")
    if isinstance(context, pd.Series):
        return context.rename(name).to_frame().reset_index(drop=True)
    return pd.DataFrame({name: np.atleast_1d(np.asarray(context))})
