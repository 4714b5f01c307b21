"""Leave a user's model exactly as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module, *, freeze: bool = True) -> Iterator[None]:
    """Run the body with the model in evaluation mode and its parameters frozen; restore everything after.

    Restored, also after an exception, an interrupt or out-of-memory: the `training` flag of every
    submodule, `requires_grad` of every parameter, and the global random state of the CPU and of all CUDA
    devices in use. Gradients (`p.grad`) are never written, because the engine differentiates with respect
    to activations only.

    Frozen parameters are also what makes a replay cheap: nothing below the probe layer requires a gradient,
    so no graph is built there, and above it no activation is kept for the sake of a weight's gradient.

    Args:
        model: the model; it may be in any mix of modes.
        freeze: False leaves `requires_grad` as it is, for who differentiates with respect to parameters.
    """
    training = {module: module.training for module in model.modules()}
    trainable = _trainable(model) if freeze else []
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if _uses_cuda() else None
    try:
        # The attribute itself is set, not .train(): that method may be overridden, and is recursive.
        for module in training:
            module.training = False
        for _, _, parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, name, parameter in trainable:
            parameter.requires_grad_(True)
            # A sharded module that has gathered its weights may hold another parameter of that name by now, which
            # took over that the first was frozen and would go on without a gradient.
            if (present := module._parameters.get(name)) is not None:
                present.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode
        torch.set_rng_state(cpu_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


def _trainable(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Every trainable parameter, and where it stands."""
    return [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]


def _uses_cuda() -> bool:
    """Whether this process has used CUDA: asking for its random state would start it on every device."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
