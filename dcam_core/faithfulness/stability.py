"""Stability: a map that explains a word must not depend on noise that nobody sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.faithfulness.perturbing import noisy
from dcam_core.faithfulness.similarity import spearman

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["noise_stability"]


def noise_stability(
    explain: Callable[[Image], Tensor], picture: Image, *, std: float = 0.02, repeats: int = 3, seed: int = 0
) -> Tensor:
    """Mean rank correlation of the maps with those of the same picture under a little noise.

    Args:
        explain: gives the maps [T, h, w] of the same words of the same recorded run for a picture. For a method that
            draws random numbers compare runs of several seeds with `agreement` instead.
        picture: RGB.
        std: standard deviation of the noise, as a share of the range from black to white.
        repeats: how many noisy pictures, at least 1.
        seed: of the noise.

    Returns:
        [T] float64 in [-1, 1]; NaN where a map is the same everywhere.

    Raises:
        UsageError: `repeats` is below 1, or maps differ in shape.
    """
    if repeats < 1:
        raise UsageError(f"repeats is {repeats}: give at least 1")
    original = explain(picture)
    found = [spearman(original, explain(noisy(picture, std, seed + repeat))) for repeat in range(repeats)]
    return torch.stack(found).mean(0)
