"""Weights without numbers, in the place of a model's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.inputs import Inputs

__all__ = ["FakeWeights", "fake_weights", "modules_of"]


class FakeWeights:
    """Makes fake tensors of one kind; what is computed from one of them and real tensors is fake too.

    They say that they are on the CPU, wherever the real ones are: an estimate for an accelerator can be made
    without one.
    """

    def __init__(self) -> None:
        # Only what hangs on the weights is fake. Token ids and positions stay real, so that code may look at them.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def like(self, tensor: Tensor) -> Tensor:
        """A fake tensor with the sizes, strides and dtype of a tensor; a parameter for a parameter."""
        with self._mode:
            fake = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake

    def prompt(self, inputs: Inputs) -> Inputs:
        """A prompt whose embeddings are fake."""
        return dataclasses.replace(inputs, embeddings=self.like(inputs.embeddings))


@contextmanager
def fake_weights(adapter: Adapter) -> Iterator[FakeWeights]:
    """Run the body with fake parameters and buffers in every module that an adapter holds.

    The model's own come back afterwards, the same objects, also after an exception: nothing is copied or computed.
    Tensors that stand in several places stand in the same places as fakes.

    Args:
        adapter: a model, in memory or on the meta device.
    """
    made = FakeWeights()
    fakes: dict[int, Tensor] = {}
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in modules_of(adapter):
            places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in places:
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    kept.append((held, name, tensor))
                    if id(tensor) not in fakes:
                        fakes[id(tensor)] = made.like(tensor)
                    held[name] = fakes[id(tensor)]
        yield made
    finally:
        for held, name, tensor in kept:
            held[name] = tensor


def modules_of(adapter: Adapter) -> list[nn.Module]:
    """Every module of the model and of other networks that the adapter holds, each once."""
    roots = [value for value in vars(adapter).values() if isinstance(value, nn.Module)]
    return list({id(module): module for root in roots for module in root.modules()}.values())
