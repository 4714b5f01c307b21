"""What a kernel takes within itself, where that is more than what it makes: depthwise convolutions on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dcam_core.estimating.counting import PeakTensorMemory

__all__ = ["PeakMemory", "depthwise_workspace"]


class PeakMemory(PeakTensorMemory):  # type: ignore[no-untyped-call]
    """Counts as `PeakTensorMemory` does, and the workspace of depthwise convolutions besides."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made and what it took meanwhile."""
        before = self.alive
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if function is torch.ops.aten.convolution.default:
            self._reach(before + depthwise_workspace(args[0], args[1], result))
        return result


def depthwise_workspace(values: Tensor, weight: Tensor, result: Tensor) -> int:
    """Bytes that a depthwise convolution holds at once on the CPU; 0 of any other, and elsewhere.

    The kernel (oneDNN's) works on copies whose channels lie together in blocks as long as a vector register. Filters
    that blur a picture of three channels by wide windows therefore take many times what they make.

    Args:
        values: [B, C, ...] what is convolved; may be fake.
        weight: [C, 1, ...] one filter for each channel.
        result: [B, C, ...] what comes out.
    """
    if values.device.type != "cpu" or weight.shape[1] != 1:
        return 0
    block = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8
    channels = block * -(-weight.shape[0] // block)
    # A single channel is read as it lies.
    copied = [result] if values.shape[1] == 1 else [values, result]
    cells = sum(tensor[:, :1].numel() for tensor in copied) + weight[:1].numel()
    return channels * cells * values.element_size()
