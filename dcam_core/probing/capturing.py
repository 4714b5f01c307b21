"""What modules put out while a state is replayed, kept, and cut out of the graph where gradients are taken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcam_core.errors import ReplayError, StructuralValidityError
from dcam_core.probing.replayed import Reading, ReplayedStates

if TYPE_CHECKING:
    from dcam_core.denoising.decision import Decider
    from dcam_core.inputs import Inputs

__all__ = ["Capture", "replay_captured"]


def replay_captured(
    captures: Sequence[Capture],
    decider: Decider,
    readings: Sequence[Reading],
    members: Sequence[Sequence[int]],
    device: torch.device,
) -> ReplayedStates:
    """Replay some states in grad mode, and capture what modules make of the picture.

    Args:
        captures: removed again, whatever happens.
        decider: as in `ReplayedStates`, like what follows.
        readings: as there.
        members: as there.
        device: as there.
    """
    # With a prefix cache the forward pass that holds the picture is not the one that makes the logits.
    with _all_of(captures):
        cached = decider.prefix is not None
    with _all_of([] if cached else captures):
        return ReplayedStates(decider, readings, members, device)


class Capture:
    """A forward hook that keeps what a module put out, in the one call that holds the picture.

    To take gradients, the graph is cut there: the output is replaced by a copy of a fresh leaf, so that gradients
    are taken with respect to the leaf and the module below it needs no graph. Where a module below is probed too,
    there is a graph already, which must not be cut: gradients have to go on to that leaf. Let through untouched are
    calls without grad mode (the unconditional pass of guidance) and calls whose output does not hold the whole
    image-token span (they are not structurally valid). The hook is removed on exit, whatever happened.

    Args:
        path: what the module is called in messages.
        module: the module.
        inputs: the prompt.
        differentiable: False only looks, and begins no graph.
    """

    def __init__(self, path: str, module: nn.Module, inputs: Inputs, *, differentiable: bool = True) -> None:
        self._path, self._module, self._inputs = path, module, inputs
        self._differentiable = differentiable
        self._outputs: list[Tensor] = []
        self._refused: list[tuple[int, ...]] = []

    def __enter__(self) -> Capture:
        self._handle = self._module.register_forward_hook(self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    @property
    def output(self) -> Tensor:
        """[S, n, C], the captured output.

        Raises:
            StructuralValidityError: no call put out the image-token span.
            ReplayError: the module was not called, or several calls put it out.
        """
        if len(self._outputs) == 1:
            return self._outputs[0]
        if not self._outputs and self._refused:
            _, stop = self._inputs.image_span
            raise StructuralValidityError(
                f"the output of {self._path!r} cannot be probed: it is {list(self._refused[0])}, and the image "
                f"tokens reach up to sequence position {stop - 1}; probe a module whose output is "
                "[batch, sequence, channels] over the whole prompt, such as a transformer block"
            )
        raise ReplayError(
            f"module {self._path!r} was called {len(self._outputs)} times in one replayed denoising step: "
            "probe a module that every step calls exactly once, such as a transformer block"
        )

    def _hear(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        _, stop = self._inputs.image_span
        if hidden.ndim != 3 or hidden.shape[1] < stop:
            self._refused.append(tuple(hidden.shape))
            return None
        if not self._differentiable:
            # A copy is kept: what follows may write into it in place.
            self._outputs.append(hidden.detach().clone())
            return None
        kept = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        self._outputs.append(kept)
        alias = kept.clone()  # for the same reason
        return alias if isinstance(output, Tensor) else (alias, *output[1:])


def _all_of(captures: Sequence[Capture]) -> ExitStack:
    """The captures, entered together."""
    stack = ExitStack()
    for capture in captures:
        stack.enter_context(capture)
    return stack
