"""Activation checkpointing of replays: memory for time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from dcam_core.errors import ConfigurationError
from dcam_core.probing.fitting import is_out_of_memory

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter

__all__ = ["checkpointed"]


@contextmanager
def checkpointed(adapter: Adapter, layers: Sequence[str]) -> Iterator[None]:
    """Run the body with blocks that keep their inputs alone for the backward pass, and compute the rest anew in it.

    A block below the probe has no graph, so nothing is kept or computed anew there. A block that holds a probed
    module computes as always: what is probed is cut out of the graph while the block runs, once.

    Args:
        adapter: the model. A block must compute the same when it is called again with the same inputs; one that
            writes its keys and values into a cache does not.
        layers: module paths that are probed.

    Raises:
        ConfigurationError: a block computed something else in the backward pass.
    """
    probed = {adapter.model.get_submodule(layer) for layer in layers}
    again: list[nn.Module] = []
    with ExitStack() as stack:
        for block in adapter.blocks:
            if probed.isdisjoint(block.modules()):
                stack.enter_context(_checkpointed(block, again))
        try:
            yield
        except RuntimeError as error:
            if not again or is_out_of_memory(error):
                raise
            raise ConfigurationError(
                f"checkpointing: the blocks of {adapter.name} compute something else when they are called a second "
                "time, as those do that write into a cache of keys and values; leave checkpointing out"
            ) from error


@contextmanager
def _checkpointed(block: nn.Module, again: list[nn.Module]) -> Iterator[None]:
    """One block. Its forward function is replaced on the object, so its hooks are called once, as always.

    Args:
        block: the block.
        again: gets the block whenever it is computed anew.
    """
    forward = block.forward
    own = "forward" in vars(block)  # accelerate has put one there, for instance

    def keep_inputs(*args: Any, **kwargs: Any) -> Any:
        first = True

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            if not first:
                again.append(block)
            first = False
            return forward(*args, **kwargs)

        # Nothing is drawn at random in evaluation mode: there is no random state to go back to.
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    block.forward = keep_inputs
    try:
        yield
    finally:
        if own:
            block.forward = forward
        else:
            del block.forward
