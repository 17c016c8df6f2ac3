"""What every test stands on: one thread, no global state left over, the same draws every time.

Tests marked slow, data or gpu are left out of a plain run; ``--all`` runs them too (for a GPU: where there is one).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same examples on every machine, with no clock to fail by.
settings.register_profile(
    "plausible",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("plausible")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the tests marked slow, data and gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {} if config.getoption("--all") else {"slow": "takes minutes: --all", "data": "reads a folder: --all"}
    if not torch.cuda.is_available():
        left_out["gpu"] = "needs a CUDA device"
    elif not config.getoption("--all"):
        left_out["gpu"] = "runs on the GPU: --all"
    for item in items:
        for mark, reason in left_out.items():
            if item.get_closest_marker(mark):  # not item.keywords, which has the folder names too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def draws() -> torch.Generator:
    """A generator for what takes torch's kind."""
    return torch.Generator().manual_seed(0)
