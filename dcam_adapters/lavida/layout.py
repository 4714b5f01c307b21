"""Which way a picture goes into LaViDa's prompt (spec, sections 5 and 6)."""

from __future__ import annotations

from dcam_adapters.common.layouts import (
    AnyResolutionLayout,
    PaddedLayout,
    PictureLayout,
    SquashedLayout,
)
from dcam_adapters.lavida.config import LaViDaConfig

__all__ = ["picture_layout"]


def picture_layout(
    config: LaViDaConfig, size: tuple[int, int], cells: int, *, padded: bool = False
) -> PictureLayout:
    """The layout that a checkpoint's `image_aspect_ratio` asks for.

    Args:
        config: the checkpoint's configuration.
        size: (width, height) of the picture in pixels.
        cells: tokens per side of a crop: `SpatialPooling.cells`, or the tower's patches per side.
        padded: as "pad", whatever the configuration says.
    """
    crop = config.crop(cells)
    if padded or config.image_aspect_ratio == "pad":
        return PaddedLayout(size, crop)
    if config.image_aspect_ratio == "anyres":
        return AnyResolutionLayout(size, crop, config.image_grid_pinpoints)
    return SquashedLayout(size, crop)
