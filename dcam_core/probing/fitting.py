"""Work in chunks that fit into memory: one that does not is halved."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["first_that_fits", "in_chunks", "is_out_of_memory"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("dcam.probing")


def in_chunks(items: Sequence[T], size: int, work: Callable[[Sequence[T]], R]) -> Iterator[R]:
    """Work on some items, chunk by chunk.

    Args:
        items: in their order.
        size: how many at once; halved for the rest of the items whenever a chunk does not fit into memory.
        work: gives a result for a chunk; leaves nothing behind where it fails.

    Yields:
        The result of every chunk, in order. It is not kept here.

    Raises:
        RuntimeError: torch's, where a single item does not fit.
    """
    start = 0
    while start < len(items):
        made, size = first_that_fits(
            min(size, len(items) - start),
            lambda count, start=start: [work(items[start : start + count])],  # type: ignore[misc]
            "states of a forward pass",
        )
        start += size
        yield made.pop()


def first_that_fits(size: int, work: Callable[[int], R], what: str) -> tuple[R, int]:
    """`work(size)`, or `work` of the half of it, and so on, until it fits into memory.

    Args:
        size: how many at first.
        work: what is to be done.
        what: what is counted, for the log.

    Returns:
        Its result, and the size that fitted.

    Raises:
        RuntimeError: torch's, where one is too many, or for another reason than memory.
    """
    while True:
        try:
            return work(size), size
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # Behind the handler: with the error go the frames that held on to tensors.
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        logger.warning("out of memory with %d %s: going on with %d", size, what, size // 2)
        size //= 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory is at an end: on an accelerator by its type, on the CPU by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
