"""Whether compiled loops can be used, and threads that share their work. numba, an extra, is not imported here."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
from collections.abc import Callable, Iterator

import torch

_lock = threading.Lock()
_insiders, _of_torch = 0, 0  # who is inside `alone`, and the threads that torch had before


@functools.cache
def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def usable(like: torch.Tensor) -> bool:
    """Whether the compiled loops take tensors such as this."""
    return like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64) and available()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, torch has one thread, and `share` has all that torch had.

    The threads of torch spin for milliseconds after each of its operations: of two cores they take one from our loops.
    """
    global _insiders, _of_torch
    with _lock:
        _of_torch = _of_torch if _insiders else torch.get_num_threads()
        _insiders += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _insiders -= 1
            torch.set_num_threads(_of_torch)


def parts(n: int, fewest: int) -> int:
    """In how many parts n examples are shared, each of which has so many at least."""
    threads = _of_torch if _insiders else torch.get_num_threads()
    return max(1, min(threads, n // fewest))


def share(n: int, fewest: int, work: Callable[[int, int, int], None]) -> None:
    """Do work(part, first, last) for all n examples, on as many threads as torch has; the parts do not depend on time.

    Threads of our own, as numba's would stay for good and are not all safe beside another thread's.
    """
    n_parts = parts(n, fewest)
    edges = [n * part // n_parts for part in range(n_parts + 1)]
    errors: list[BaseException] = []

    def run(part: int) -> None:
        try:
            work(part, edges[part], edges[part + 1])
        except BaseException as error:  # a thread's error is shown and lost otherwise
            errors.append(error)

    threads = [threading.Thread(target=run, args=(part,)) for part in range(1, n_parts)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
