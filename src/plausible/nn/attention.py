r"""Causal self-attention: what stands at position t is made of positions up to t.

    x <- x + Attend(norm(x)),    x <- x + MLP(norm(x)),    Attend = softmax(q k^T / sqrt(S) + causal mask) v

a layer, with S numbers a head (pre-norm). Positions can be taken all at once (`forward`), or a few at a time with the
keys and values of those before kept in a `Memory` (`extend`), to the same numbers: the t-th position then costs one
pass over the weights and over t keys and values, not t passes. On the CPU this is a compiled loop where numba is
installed (`attention_steps`).

References: Vaswani et al., Attention is all you need, 2017, https://arxiv.org/abs/1706.03762. Radford et al., Language
models are unsupervised multitask learners, 2019 (pre-norm, initial weights). Su et al., RoFormer, 2021,
https://arxiv.org/abs/2104.09864 (rotary positions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from plausible.nn.compiled import usable
from plausible.nn.mlp import Dropout

if TYPE_CHECKING:
    from plausible.nn.attention_steps import Steps

ROTARY_BASE = 10_000.0
INITIAL_STD = 0.02  # of weights, as GPT-2
SHORT = 512  # positions; of longer ones all scores at once would take too much memory
BLOCK = 128


class Memory:
    """Keys and values of the positions seen so far, of n examples; there is room for all T positions from the start.

    Both are (L, n H, T / B, S, B), with L layers, H heads, S numbers a head, and B positions side by side, along which
    the sums run. B is T where no compiled loop wants blocks of some size.
    """

    def __init__(self, shape: tuple[int, int, int, int], length: int, like: torch.Tensor, steps: Steps | None = None):
        layers, n, heads, size = shape
        self.block, room = (steps.block, steps.zeros) if steps else (length, like.new_empty)
        blocks = -(-length // self.block)
        self.keys, self.values = (room((layers, n * heads, blocks, size, self.block)) for _ in range(2))
        self.steps = steps
        self.shift: list[torch.Tensor | None] = [None] * layers  # (n, 1, W) that each layer adds for the context
        self.at = 0  # positions seen

    def note(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Note keys and values (n, m, H, S) of the next positions; return those of all so far, each (n H, S, t)."""
        stop, found = self.at + k.shape[1], []
        for kept, new in ((self.keys[layer], k), (self.values[layer], v)):
            new = new.permute(0, 2, 3, 1).flatten(0, 1)  # (n H, S, m)
            while new.shape[2]:
                i, place = divmod(stop - new.shape[2], self.block)
                part, new = new[..., : self.block - place], new[..., self.block - place :]
                kept[:, i, :, place : place + part.shape[2]] = part
            found.append(kept[:, : -(-stop // self.block)].transpose(1, 2).flatten(2)[..., :stop])
        return found[0], found[1]


class CausalAttention(nn.Module):
    """Self-attention with several heads: (n, T, W) -> (n, T, W)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def _split(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor] | None):
        """Return queries, keys and values, each (n, T, H, S)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if turn is None:
            return qkv.unbind(2)
        return *_rotate(qkv[:, :, :2], turn).unbind(2), qkv[:, :, 2]

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """All positions at once; `turn` is what `Decoder.turn` gives for them."""
        q, k, v = (t.transpose(1, 2) for t in self._split(x, turn))  # (n, H, T, S)
        found = _by_blocks(q, k, v) if _is_short(q) else F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(found.transpose(1, 2).flatten(2))

    def extend(self, x: torch.Tensor, memory: Memory, layer: int, turn=None) -> torch.Tensor:
        """The next positions (n, m, W), with those before in the memory, where these are noted."""
        n, m, width = x.shape
        q, k, v = self._split(x, turn)
        size = q.shape[-1]
        keys, values = memory.note(layer, k, v)
        if m == 1:
            scores = torch.bmm(q.reshape(-1, 1, size) * size**-0.5, keys)
            return self.out(torch.bmm(scores.softmax(-1), values.transpose(1, 2)).view(n, 1, width))
        at = memory.at
        seen = None if not at else torch.ones(m, at + m, dtype=torch.bool, device=x.device).tril(at)
        k, v = (t.transpose(1, 2).unflatten(0, (n, -1)) for t in (keys, values))
        found = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, seen, is_causal=not at)
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One layer: attention, then two linear layers on each position; a context is added to what it is given."""

    def __init__(self, width: int, heads: int, dropout: float, n_context: int):
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.wide, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.of_context = nn.Linear(n_context, width, bias=False) if n_context else None
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, attend, shift: torch.Tensor | None) -> torch.Tensor:
        """`attend` is the attention, called with what it attends to."""
        if shift is not None:
            x = x + shift
        x = x + self.dropout(attend(self.before_attention(x)))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.before_mlp(x)))))


class Decoder(nn.Module):
    """Layers of causal attention over at most T positions: (n, T, W) -> (n, T, W).

    Args:
        width: numbers W a position.
        layers, heads: how many; the heads share the width.
        length: positions T, at most.
        rotary: tell positions by turning queries and keys; otherwise the input has to tell them.
        dropout: share of what each half of a layer adds that is dropped while training.
        n_context: numbers of a context that each layer is told.
    """

    def __init__(
        self, width: int, layers: int, heads: int, length: int, rotary: bool, dropout: float, n_context: int = 0
    ):
        super().__init__()
        self.length, self.heads, self.size = length, heads, width // heads
        self.blocks = nn.ModuleList(Block(width, heads, dropout, n_context) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.rotary = rotary
        if rotary:
            rate = ROTARY_BASE ** (-torch.arange(0, self.size, 2) / self.size)
            angle = torch.arange(length)[:, None, None, None] * rate  # (T, 1, 1, S / 2)
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what a layer adds to is the sum of 2 L such terms
                last = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(weight, std=INITIAL_STD / (2 * layers) ** 0.5 if last else INITIAL_STD)

    def turn(self, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Cosines and sines by which queries and keys of some positions are turned."""
        return (self.cos[first:stop], self.sin[first:stop]) if self.rotary else None

    def _shifts(self, c: torch.Tensor | None) -> list[torch.Tensor | None]:
        return [None if c is None else block.of_context(c)[:, None] for block in self.blocks]

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Take all positions, the first T' <= T, at once."""
        turn = self.turn(0, x.shape[1])
        for block, shift in zip(self.blocks, self._shifts(c), strict=True):
            x = block(x, lambda y, attention=block.attention: attention(y, turn), shift)
        return self.norm(x)

    def memory(self, n: int, c: torch.Tensor | None = None) -> Memory:
        """Return the memory of n examples of which no position is known."""
        like, steps = self.norm.weight, None
        if usable(like) and self.size % 4 == 0 and not self.training:
            from plausible.nn.attention_steps import Steps

            steps = Steps(self)
        memory = Memory((len(self.blocks), n, self.heads, self.size), self.length, like, steps)
        memory.shift = self._shifts(c)
        return memory

    def extend(self, x: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Take the next m positions (n, m, W); those before are in the memory, where these are noted.

        Raises:
            ValueError: there are more than T.
        """
        stop = memory.at + x.shape[1]
        if stop > self.length:
            raise ValueError(f"a memory has room for {self.length} positions; got {stop}")
        turn = self.turn(memory.at, stop)
        if memory.steps is not None and x.shape[1] == 1 and not torch.is_grad_enabled():
            x = memory.steps(x[:, 0], memory, turn)[:, None]
        else:
            for i, block in enumerate(self.blocks):

                def attend(y, attention=block.attention, i=i):
                    return attention.extend(y, memory, i, turn)

                x = block(x, attend, memory.shift[i])
            x = self.norm(x)
        memory.at = stop
        return x


def _is_short(q: torch.Tensor) -> bool:
    """Whether plain products learn attention faster: in bfloat16 on a CPU torch's own way takes twice as long."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad and q.shape[2] <= SHORT


def _by_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention, some queries at a time, each block with the keys that it may see."""
    later = torch.full((BLOCK, BLOCK), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    found = []
    for block in (q * q.shape[-1] ** -0.5).split(BLOCK, 2):
        seen = min(len(found) * BLOCK + BLOCK, q.shape[2])
        scores = block @ k[:, :, :seen].transpose(2, 3)
        m = block.shape[2]
        scores = scores + F.pad(later[:m, :m], (seen - m, 0))
        found.append(scores.softmax(-1) @ v[:, :, :seen])
    return torch.cat(found, 2)


def _rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair of numbers of x (n, T, ..., S) by the angle of its position."""
    cos, sin = (t.to(x.dtype) for t in turn)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
