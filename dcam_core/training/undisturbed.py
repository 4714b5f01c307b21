"""Work in the middle of a training run that the run does not notice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from dcam_core.probing.untouched import untouched

__all__ = ["undisturbed"]


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run the body with the whole module frozen and in evaluation mode, outside of inference mode and autocast.

    Afterwards everything is as before, also if the body raised: mode of every submodule, `requires_grad`, the random
    states of Python, NumPy, torch and CUDA, inference mode, grad mode and autocast. Gradients and the state of
    optimisers are not read or written: what is frozen gets no gradient. Explanations are computed in the dtype of the
    weights; under "bf16-mixed" that is float32.

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
            stack.enter_context(untouched(module))
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
