"""The rank-Gaussian filter: a median filter that starts to average where a window is very uneven."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32
from dcam_plugins.refiners._windows import elementwise_sort, reflect_pad

__all__ = ["RankGaussian", "rank_gaussian_filter"]

_SMALLEST_VARIANCE = 1e-6
"""In squared ranks. A neighbour of the median then weighs exp(-500 000), which is zero in every floating
dtype, so clamping here changes no number, and makes 0/0 for constant windows into its limit."""


def rank_gaussian_filter(maps: Tensor, kernel_size: int) -> Tensor:
    """Replace every pixel by a weighted mean of its sorted window, weighted around the median rank.

    With the window's values in ascending order w_0 ... w_{n-1}, n = kernel_size^2, and their mean mu and
    population standard deviation sigma, the result is

        sum_r w_r g_r / sum_r g_r,    g_r = exp(-(r - (n - 1)/2)^2 / (2 (sigma/mu)^2)).

    The width is the coefficient of variation, taken in ranks: below about 0.3 the filter is a median, and
    only where few values stand far above the others are more ranks averaged. Borders are mirrored.

    A constant window has sigma = 0, and the released code then divides 0 by 0; here it gives the limit, the
    median, so a constant map stays as it is. A window without positive mean gives 0.

    Args:
        maps: [B, H, W], values >= 0, any floating dtype (half precision is computed in float32).
        kernel_size: odd side of the window; it may be larger than the map.

    Returns:
        [B, H, W], same dtype, every value between the smallest and the largest of its window.

    Source: Li et al., "Token Activation Map", ICCV 2025; specification of the method, section 3.
    """
    values = at_least_float32(maps)
    height, width = values.shape[1:]
    padded = reflect_pad(values, kernel_size // 2)
    shifts = range(kernel_size)
    windows = [padded[:, i : i + height, j : j + width] for i in shifts for j in shifts]
    ordered = elementwise_sort(windows)

    # From here on rank by rank: each term has the size of the maps and stays in the cache.
    mean = reduce(torch.add, ordered) / len(ordered)
    spread = reduce(torch.add, ((value - mean).square() for value in ordered)) / len(ordered)
    tiny = torch.finfo(values.dtype).tiny
    variance = (spread / mean.square().clamp_min(tiny)).clamp_min(_SMALLEST_VARIANCE)
    decay = -0.5 / variance

    centre = len(ordered) // 2
    total, weight = ordered[centre], torch.ones_like(mean)
    for distance in range(1, centre + 1):
        g = torch.exp(distance**2 * decay)
        total = total + g * (ordered[centre - distance] + ordered[centre + distance])
        weight = weight + 2 * g
    filtered = total / weight
    return filtered.where(mean > 0, torch.zeros_like(filtered)).to(maps.dtype)


class RankGaussian(Refiner):
    """`rank_gaussian_filter` with one kernel size for all maps.

    Args:
        kernel_size: odd side of the window in grid cells.

    Raises:
        ConfigurationError: if the size is not odd and positive.
    """

    def __init__(self, *, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigurationError(
                f"rank-gaussian: kernel_size is {kernel_size}, but a window needs a centre: "
                "give an odd number from 1 up"
            )
        self.kernel_size = kernel_size

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`. The context is not used."""
        return rank_gaussian_filter(maps, self.kernel_size)
