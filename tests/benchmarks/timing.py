"""How long calls take, on a number of threads that is the same for both sides of a ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["median_milliseconds", "milliseconds", "on_one_thread"]


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def median_milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The median of several calls; whoever wants one to warm up makes it before."""
    return statistics.median(milliseconds(call) for _ in range(repeats))


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Torch computes on one thread, and afterwards on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
