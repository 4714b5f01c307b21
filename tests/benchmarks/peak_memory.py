"""Peak memory of tensors, counted exactly."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PeakTensorMemory"]


class PeakTensorMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside and are alive, and remembers the highest count.

    Sizes of storages rather than of the process: the figure depends neither on the allocator nor on what ran
    before, so that two figures of one run can be divided by each other.

    Attributes:
        peak: highest number of bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self._bytes = 0
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or not storage.nbytes():
            return
        self._alive[key] = storage.nbytes()
        self._bytes += storage.nbytes()
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._bytes -= self._alive.pop(key, 0)
