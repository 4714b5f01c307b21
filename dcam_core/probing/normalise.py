"""Min-max normalisation of a batch of maps."""

from __future__ import annotations

from torch import Tensor

__all__ = ["min_max"]


def min_max(maps: Tensor) -> Tensor:
    """Stretch every map to [0, 1] on its own (method spec, section 1).

    Args:
        maps: [B, H, W], any floating dtype.

    Returns:
        [B, H, W]; (M - min M) / (max M - min M). A map that is the same everywhere says nothing about where:
        it becomes zero.
    """
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / span.where(span > 0, 1)
