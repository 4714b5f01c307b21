"""The graph of a replay on another device until its backward passes need it: memory for transfers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["OFFLOADED_FROM", "offloaded"]

OFFLOADED_FROM = 2**12
"""Bytes from which a tensor is worth a transfer."""


@contextmanager
def offloaded(model: nn.Module, to: torch.device | None) -> Iterator[None]:
    """Run a forward pass whose graph keeps its tensors elsewhere; backward passes fetch them, each when it is needed.

    Weights stay where they are, with all views of them: every pass needs them. What a device map brings to the
    device for one block alone, and what is unpacked of quantised weights, is the graph's, and goes with it.

    Args:
        model: the model.
        to: where the tensors go; None: they stay where they are.
    """
    if to is None:
        yield
        return
    weights = {_storage(tensor) for tensor in chain(model.parameters(), model.buffers())}

    def pack(tensor: Tensor) -> Tensor | _Away:
        stays = tensor.device == to or tensor.nbytes < OFFLOADED_FROM or _storage(tensor) in weights
        return tensor if stays else _Away(tensor.to(to), tensor.device)

    def unpack(kept: Tensor | _Away) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept.tensor.to(kept.device)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class _Away(NamedTuple):
    """A tensor that was taken elsewhere, and where it belongs."""

    tensor: Tensor
    device: torch.device


def _storage(tensor: Tensor) -> int:
    """What tells the memory of one tensor from that of another; views have that of what they are views of."""
    key: int = tensor.untyped_storage()._cdata
    return key
