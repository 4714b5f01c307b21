"""Min-max normalisation of the maps of one target, over all pictures of the prompt together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["joint_min_max"]


def joint_min_max(maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Stretch every target's maps to [0, 1] (method spec, section 1).

    A target has one map per picture, made by the same gradient and the same activations, so that their values
    can be compared. They are stretched by one lowest and one highest value: on its own, a picture without
    evidence would look as hot as the one that holds it. With one picture this is the usual min-max.

    Args:
        maps: one [T, H, W] per picture, any floating dtype; H and W may differ between pictures.

    Returns:
        The same shapes; (M - min M) / (max M - min M) with min and max over all pictures of a target. Where
        they are the same everywhere they say nothing about where, and become zero.
    """
    values = torch.cat([part.flatten(1) for part in maps], dim=1)
    low = values.amin(1)[:, None, None]
    span = values.amax(1)[:, None, None] - low
    return tuple((part - low) / span.where(span > 0, 1) for part in maps)
