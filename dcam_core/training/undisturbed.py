"""Work in the middle of a training run that the run does not notice."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dcam_core.probing.untouched import untouched

__all__ = ["undisturbed"]

_COPIED = 1 << 20
"""Bytes up to which a buffer is copied. Counters and running statistics are far smaller; what is larger, such as
quantised weights or averaged ones, is no forward pass's to write, and would take as much memory again."""


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run the body with the whole module frozen and in evaluation mode, outside of inference mode and autocast.

    Afterwards everything is as before, also if the body raised: mode of every submodule, `requires_grad`, buffers of
    up to 1 MiB, the random states of Python, NumPy, torch and CUDA (of no other accelerator, such as MPS or XPU),
    inference mode, grad mode and autocast. Gradients and the state of optimisers are not read or written: what is
    frozen gets no gradient. Explanations are computed in the dtype of the weights; under "bf16-mixed" that is
    float32. What `torch.compile` has compiled runs uncompiled: it would be
    compiled again for hooks, other shapes and other modes; what is compiled for the training stays.

    Args:
        module: everything that is trained: the LightningModule.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = {"cpu", *(parameter.device.type for parameter in module.parameters())}
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            for device in sorted(devices):
                if torch.amp.is_autocast_available(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if "torch._dynamo" in sys.modules:  # or nothing was compiled, and it takes long to import
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_buffers_kept(module))
            stack.enter_context(untouched(module))
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put back what a forward pass writes into buffers by itself: loads of experts, observers, running statistics.

    A buffer that was replaced by one of another shape stays: it is a cache that has grown, and its module knows.
    """
    kept = [
        (part, name, buffer, _version(buffer), buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        # Not what is sharded, fake or otherwise more than its values.
        if type(buffer) is Tensor and not buffer.is_meta and buffer.nbytes <= _COPIED
    ]
    try:
        yield
    finally:
        for part, name, buffer, version, values in kept:
            present = part._buffers.get(name)
            if present is None or present.shape != buffer.shape or present.dtype != buffer.dtype:
                continue
            part._buffers[name] = buffer
            if _version(buffer) != version:
                with torch.no_grad():
                    buffer.copy_(values)


def _version(buffer: Tensor) -> int:
    """Rises when the tensor is written to; one that was made in inference mode does not count, nor can be written."""
    return 0 if buffer.is_inference() else buffer._version
