"""Attention read off a running model: what its softmaxes spread over all positions for all positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dcam_core.errors import ConfigurationError

if TYPE_CHECKING:
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.probing.replays import Replays

__all__ = ["check_all_attended", "full_replay", "positions_of", "with_weights"]


@contextmanager
def with_weights() -> Iterator[None]:
    """While the body runs, PyTorch's fused kernels, which never form the weights of attention, are out of use."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def full_replay(name: str, replays: Replays) -> tuple[int, SamplerSettings]:
    """How many positions a state has together with its prompt, and settings by which all of them attend at once.

    Args:
        name: of the attribution.
        replays: the run.

    Raises:
        ConfigurationError: the model always reads its prompt apart from the answer.
    """
    try:
        settings = replace(replays.trajectory.settings, cache=None, guidance_scale=0.0)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{name} follows attention from the answer back to the picture within one forward pass, and "
            f"{replays.adapter.name} reads its prompt in a pass before; choose another attribution"
        ) from error
    return replays.inputs.prompt_length + len(replays.trajectory.final), settings


def positions_of(replays: Replays, index: int) -> list[int]:
    """The positions of the sequence at which a reading's tokens are predicted."""
    start = replays.inputs.prompt_length - replays.adapter.prediction_shift
    return [start + position for position in replays.readings[index].positions]


def check_all_attended(name: str, replays: Replays, seen: int) -> None:
    """Refuse a model whose attention was not seen.

    Args:
        name: of the attribution.
        replays: the run.
        seen: how often all positions attended to all in one pass.

    Raises:
        ConfigurationError: the model does not attend once in every block.
    """
    adapter = replays.adapter
    if seen != len(adapter.blocks):
        raise ConfigurationError(
            f"{name} saw {seen} of {len(adapter.blocks)} blocks of {adapter.name} attend in full, by softmax; choose "
            "another attribution"
        )
