"""Weights without numbers, in the place of a model's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.inputs import Inputs

__all__ = ["FakeWeights", "elsewhere", "fake_weights", "modules_of"]


class FakeWeights:
    """Makes fake tensors of one kind; what is computed from one of them and real tensors is fake too.

    They say that they are on the CPU, wherever the real ones are: an estimate for an accelerator can be made
    without one.

    Attributes:
        mode: torch's, that they belong to.
    """

    def __init__(self) -> None:
        # Only what hangs on the weights is fake. Token ids and positions stay real, so that code may look at them.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def like(self, tensor: Tensor) -> Tensor:
        """A fake tensor with the sizes, strides and dtype of a tensor; a parameter for a parameter."""
        with self.mode:
            fake = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake

    def prompt(self, inputs: Inputs) -> Inputs:
        """A prompt whose embeddings are fake."""
        return dataclasses.replace(inputs, embeddings=self.like(inputs.embeddings))


def elsewhere(offload: torch.device | None, device: torch.device) -> torch.device | None:
    """Where fake tensors go in place of those that are offloaded: the meta device, which is counted apart.

    Args:
        offload: where the real ones go; None: they stay.
        device: where the real ones are computed; the meta device stands for an accelerator.
    """
    return None if offload in (None, device) else torch.device("meta")


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
        with _AsReal(made.mode):
            yield made
    finally:
        for held, name, tensor in kept:
            held[name] = tensor


class _AsReal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does what torch's own fake tensors refuse.

    A mask that is real may select from a fake tensor: it is known how much is selected. Grouped matrix products, as
    of a mixture of experts, are there in every dtype. And what is real can be sent to the meta device and comes back
    as a fake.

    Args:
        mode: of the fake tensors.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        if function in _SELECTING:
            args = (args[0], _places(args[1]), *args[2:])
        elif function.name() == _GROUPED_PRODUCT and isinstance(args[0], FakeTensor):
            return _grouped_product(*args, **kwargs)
        elif function is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("meta"):
            args = (args[0] if isinstance(args[0], FakeTensor) else self._mode.from_tensor(args[0]),)
        return function(*args, **kwargs)


_SELECTING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)

_GROUPED_PRODUCT = "aten::_grouped_mm"  # by its name: older versions of torch do not have it


def _grouped_product(
    first: Tensor,
    second: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The shape of a grouped matrix product: groups are a third dimension, or lie behind each other in one of two.

    Two matrices give one for each group; otherwise groups that lie behind each other do so in the product, too.
    """
    shape = [first.shape[-2], second.shape[-1]]
    if first.ndim == second.ndim:
        shape.insert(0, len(offs) if offs is not None else len(first))
    return first.new_empty(shape, dtype=out_dtype)


def _places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same indices, with the places where a real mask is true instead of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
            found.append(index)
        else:
            found += index.nonzero().unbind(1)
    return found


def modules_of(adapter: Adapter) -> list[nn.Module]:
    """Every module of the model and of other networks that the adapter holds, each once."""
    roots = [value for value in vars(adapter).values() if isinstance(value, nn.Module)]
    return list({id(module): module for root in roots for module in root.modules()}.values())
