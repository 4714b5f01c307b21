"""Answers to the deciding hooks that single presets need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.probing.gradient_targets import GradientTarget

if TYPE_CHECKING:
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.targets import Target

__all__ = ["whole_answer"]


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
