"""Peak memory of tensors, counted exactly."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["PeakTensorMemory"]


class PeakTensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that were made inside and are alive, and remembers the highest count.

    Sizes of storages rather than of the process: the figure depends neither on the allocator nor on what ran
    before, so that two figures of one run can be divided by each other. Fake tensors count like real ones; those on
    the meta device stand for what lies elsewhere, and are counted apart. What a kernel takes and gives back within
    itself is not seen.

    Attributes:
        alive: number of bytes alive now.
        peak: highest number of bytes alive at once, since the beginning or the last `restart`.
        recent: the same since the last `mark`.
        elsewhere: number of bytes alive elsewhere now.
        peak_elsewhere: highest number of bytes alive elsewhere at once, since the beginning.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self.alive = self.elsewhere = 0
        self.peak = self.recent = self.peak_elsewhere = 0

    def restart(self) -> None:
        """Forget the peak; what is alive goes on counting."""
        self.peak = self.recent = self.alive

    def mark(self) -> None:
        """Forget what was recent; the peak stays."""
        self.recent = self.alive

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        # A view of a weight is not made here: only what no argument holds already.
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage(), elsewhere=tensor.is_meta)
        return result

    def _count(self, storage: torch.UntypedStorage, *, elsewhere: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes or not size:
            return
        self._sizes[key] = size
        if elsewhere:
            self.elsewhere += size
            self.peak_elsewhere = max(self.peak_elsewhere, self.elsewhere)
        else:
            self.alive += size
            self._reach(self.alive)
        weakref.finalize(storage, self._forget, key, elsewhere)

    def _reach(self, count: int) -> None:
        self.peak, self.recent = max(self.peak, count), max(self.recent, count)

    def _forget(self, key: int, elsewhere: bool) -> None:
        size = self._sizes.pop(key, 0)
        if elsewhere:
            self.elsewhere -= size
        else:
            self.alive -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
