"""What the speed benchmarks hold the package against: the training loop of most repositories, and the naive sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "binarized_mnist"


def images(n: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return n training and 10,000 held-out images (n, 28, 28) of bytes 0 and 1, and what they are."""
    if FOLDER.exists():
        parts = [np.load(FOLDER / f"{name}.npz", allow_pickle=False)["images"] for name in ("train", "test")]
        return parts[0][:n], parts[1], "binarised MNIST"
    rng = np.random.default_rng(0)
    chances = rng.beta(0.2, 0.8, (20, 28, 28))
    x = (rng.random((n + 10_000, 28, 28)) < chances[rng.integers(20, size=n + 10_000)]).astype(np.uint8)
    return x[:n], x[n:], "draws from a mixture"


def train(model: nn.Module, x: torch.Tensor, epochs: int, batch: int, rate: float = 1e-3) -> nn.Module:
    """Minimise the mean of ``model.nll`` over floats x: a `DataLoader`, `Adam()`, float32, `loss.item()`."""
    data = TensorDataset(x)
    loader = DataLoader(data, batch_size=batch, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    total = 0.0
    for _ in range(epochs):
        for (part,) in loader:
            optimiser.zero_grad()
            loss = model.nll(part).mean()
            loss.backward()
            optimiser.step()
            total += loss.item()
    return model


def naive(module: nn.Module, u: torch.Tensor) -> torch.Tensor:
    """Draw bits (n, D) with a full pass of a stepwise module for every one, from uniforms (n, D, 2)."""
    z = torch.zeros(u.shape[:2])
    for d in range(z.shape[1]):
        z[:, d] = (u[:, d, 0] < module.conditionals(z)[:, d].sigmoid()).float()
    return z


def seconds(work: Callable[[], Any]) -> float:
    """Return how long it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
