"""Otsu's threshold: what stands out in a map, asked by metrics and refiners alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["found_pixels", "otsu_threshold"]

_LEVELS = 256
_SMALLEST_CLASS = 1.19e-7  # float32 epsilon, the weight under which OpenCV's Otsu skips a class


def otsu_threshold(maps: Tensor) -> Tensor:
    """Otsu's threshold on 256 grey levels, as the published metrics compute it (method spec, section 9).

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.

    Returns:
        [B] int64, the grey level t; foreground is `trunc(255 * map) > t`. Where several levels separate
        equally well, the first; where none does (a constant map), 0.
    """
    grey = (255 * maps.double()).to(torch.int64).flatten(1)
    counts = torch.zeros(len(maps), _LEVELS, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(1, grey, torch.ones_like(grey, dtype=torch.float64))
    share = counts / grey.shape[1]
    levels = torch.arange(_LEVELS, dtype=torch.float64, device=maps.device)
    below = share.cumsum(1)
    above = 1 - below
    mass_below = (share * levels).cumsum(1)
    mass = mass_below[:, -1:]
    usable = (torch.minimum(below, above) >= _SMALLEST_CLASS) & (
        torch.maximum(below, above) <= 1 - _SMALLEST_CLASS
    )
    mean_below = mass_below / below.where(usable, 1)
    mean_above = (mass - mass_below) / above.where(usable, 1)
    between = torch.where(usable, below * above * (mean_below - mean_above).square(), 0)
    # Levels that are empty repeat the value of the last filled one up to rounding: the first one counts.
    best = between.amax(1, keepdim=True)
    return (between >= best * (1 - 1e-12)).to(torch.int64).argmax(1) * (best[:, 0] > 0)


def found_pixels(maps: Tensor) -> Tensor:
    """The map binarised at Otsu's threshold.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.

    Returns:
        [B, H, W] bool. All of a constant map that is not zero is found, and nothing of a zero map.
    """
    return (255 * maps.double()).to(torch.int64) > otsu_threshold(maps)[:, None, None]
