"""Work in chunks that fit into memory: one that does not is halved."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["ChunkSize", "is_out_of_memory"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("dcam.probing")


class ChunkSize:
    """How many things are worked on at once: halved, for good, whenever so many do not fit into memory.

    Args:
        size: how many at first, at least 1.
        what: what is counted, for the log.

    Attributes:
        size: how many now.
    """

    def __init__(self, size: int, what: str = "states of a forward pass") -> None:
        self.size = size
        self._what = what

    def over(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[R]:
        """Work on some items, chunk by chunk.

        Args:
            items: in their order.
            work: gives a result for a chunk; leaves nothing behind where it fails.

        Yields:
            The result of every chunk, in order. It is not kept here.

        Raises:
            RuntimeError: torch's, where a single item does not fit, or for another reason than memory.
        """
        start = 0
        while start < len(items):
            made, count = self._first_of(items[start:], work)
            start += count
            yield made.pop()

    def _first_of(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> tuple[list[R], int]:
        """What is made of the first items, in a list that can be emptied; and of how many."""
        return self.fitting(lambda count: ([work(items[:count])], count), len(items))

    def fitting(self, work: Callable[[int], R], at_most: int | None = None) -> R:
        """`work(size)`, or `work` of the half of it, and so on, until it fits into memory.

        Args:
            work: what is to be done with so many; leaves nothing behind where it fails.
            at_most: how many there are to be done.

        Raises:
            RuntimeError: torch's, where one is too many, or for another reason than memory.
        """
        count = self.size if at_most is None else min(self.size, at_most)
        while True:
            try:
                return work(count)
            except RuntimeError as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
            # Behind the handler: with the error go the frames that held on to tensors.
            gc.collect()
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            logger.warning("out of memory with %d %s: going on with %d", count, self._what, count // 2)
            count = self.size = count // 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory is at an end: on an accelerator by its type, on the CPU by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
