"""Answers to the deciding hooks that single presets need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.probing.gradient_targets import GradientTarget

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.targets import Target

__all__ = ["feed_forward_norm", "whole_answer"]


def whole_answer(target: Target, trajectory: Trajectory) -> GradientTarget:
    """The sum of the logits of all tokens of the answer, whichever word is asked for.

    Args:
        target: the word; its own ids stand at its positions.
        trajectory: the recorded run; the other ids are those of its answer.
    """
    others = tuple(place for place in range(trajectory.answer_length) if place not in target.positions)
    said = trajectory.final[list(others)]

    def score(logits: Tensor, token_ids: Tensor) -> Tensor:
        return logits.gather(-1, torch.cat([token_ids, said.to(token_ids)])[:, None]).sum()

    return GradientTarget(score, context=others)


def feed_forward_norm(adapter: Adapter, depth: float) -> str:
    """Path of the norm before a block's feed-forward network: the last of its parts that is called a norm.

    Args:
        adapter: the model.
        depth: fraction of the depth in [0, 1].

    Raises:
        ConfigurationError: the block has no part of that name.
    """
    block = adapter.layer_path(float(depth))
    norms = [name for name, _ in adapter.model.get_submodule(block).named_children() if "norm" in name]
    if not norms:
        raise ConfigurationError(
            f"block {block!r} of {adapter.name} has no part that is called a norm: set probe_layer to a module path"
        )
    return f"{block}.{norms[-1]}"
