"""Pooling of a crop's tokens, behind the projector (spec, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["POOLING_MODES", "SpatialPooling"]


def _bilinear(planes: Tensor) -> Tensor:
    # Not antialiased: an output cell reads the two by two tokens around its centre.
    half = math.ceil(planes.shape[-1] / 2)
    return F.interpolate(planes, size=(half, half), mode="bilinear", align_corners=False)


POOLING_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": _bilinear,
    "average": lambda planes: F.avg_pool2d(planes, 2),
    "max": lambda planes: F.max_pool2d(planes, 2),
}
"""`mm_spatial_pool_mode` -> [crops, D, P, P] to [crops, D, T, T]. Published is "bilinear", which rounds T up;
the others round down."""


class SpatialPooling(nn.Module):
    """The square of a crop's tokens, halved. No parameters: it is no part of a checkpoint.

    Args:
        mode: a name of `POOLING_MODES`.
        side: P, tokens per side before.

    Attributes:
        cells: T, tokens per side after.
    """

    def __init__(self, mode: str, side: int) -> None:
        super().__init__()
        self._pool, self._side = POOLING_MODES[mode], side
        self.cells = math.ceil(side / 2) if mode == "bilinear" else side // 2

    def forward(self, tokens: Tensor) -> Tensor:
        """[crops, P * P, D] -> [crops, T * T, D], both row-major."""
        planes = rearrange(tokens, "crop (row column) d -> crop d row column", row=self._side)
        return rearrange(self._pool(planes), "crop d row column -> crop (row column) d")
