"""The size of weights: as they are, or as they will be once their blocks are quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import Tensor, nn

from dcam_core.estimating.fakes import modules_of

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter

__all__ = ["unpacked_bytes", "weight_bytes"]

GROUP: Final = 64
"""Weights that share a scale in 4 bits."""

SCALES: Final = 256
"""Scales that share a scale of theirs: they are kept in 8 bits."""


def weight_bytes(adapter: Adapter, quantisation: str | None = None) -> int:
    """Bytes of all parameters and buffers; what is shared counts once.

    Args:
        adapter: a model, in memory or on the meta device.
        quantisation: how the linear layers of its blocks will be quantised; None: they stay as they are.
    """
    tensors = {
        id(tensor): tensor
        for module in modules_of(adapter)
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    }
    if quantisation is None:
        return sum(tensor.nbytes for tensor in tensors.values())
    packed = {id(weight): _packed(weight, quantisation) for weight in _quantised(adapter)}
    return sum(packed.get(key, tensor.nbytes) for key, tensor in tensors.items())


def unpacked_bytes(adapter: Adapter, quantisation: str | None = None) -> int:
    """Bytes that the largest of the quantised weights takes while its layer computes."""
    if quantisation is None:
        return 0
    return max((weight.nbytes for weight in _quantised(adapter)), default=0)


def _quantised(adapter: Adapter) -> list[Tensor]:
    """The weights that are quantised: those of the linear layers of the blocks."""
    return [
        module.weight
        for block in adapter.blocks
        for module in block.modules()
        if isinstance(module, nn.Linear)
    ]


def _packed(weight: Tensor, quantisation: str) -> int:
    """Bytes of a weight: a byte each and a float32 scale per row, or half a byte each and scales in groups."""
    if quantisation == "8bit":
        return weight.numel() + 4 * weight.shape[0]
    groups = -(-weight.numel() // GROUP)
    return -(-weight.numel() // 2) + groups + 4 * -(-groups // SCALES)
