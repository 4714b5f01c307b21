"""Clipping and min-max normalisation, the step between the published modules."""

from __future__ import annotations

from torch import Tensor

from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32

__all__ = ["MinMax", "min_max"]

_EPSILON = 1e-8


def min_max(maps: Tensor, raw: Tensor) -> Tensor:
    """Clip each map to [0, max of its raw map], then stretch it to [0, 1].

    Args:
        maps: [B, H, W].
        raw: [B, H, W], the maps before any refiner: no pixel may rise above what the attribution gave.

    Returns:
        [B, H, W], same dtype as `maps`; (x - min) / (max - min + 1e-8). A constant map has no contrast to
        stretch and is only clipped.

    Source: specification of the method, section 6.
    """
    values = at_least_float32(maps)
    ceiling = at_least_float32(raw).amax(dim=(1, 2), keepdim=True)
    clipped = values.clamp_min(0).minimum(ceiling)
    low, high = clipped.amin(dim=(1, 2), keepdim=True), clipped.amax(dim=(1, 2), keepdim=True)
    stretched = (clipped - low) / (high - low + _EPSILON)
    return stretched.where(high > low, clipped).to(maps.dtype)


class MinMax(Refiner):
    """`min_max` with the raw maps of the context."""

    range_only = True

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`."""
        return min_max(maps, context.raw)
