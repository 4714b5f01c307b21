"""Which way a picture goes into LLaDA-V's prompt (spec, sections 3 and 5)."""

from __future__ import annotations

from dcam_adapters.common.layouts import AnyResolutionLayout, PaddedLayout, PictureLayout
from dcam_adapters.llada_v.config import LLaDAVConfig

__all__ = ["picture_layout"]


def picture_layout(config: LLaDAVConfig, size: tuple[int, int], *, padded: bool = False) -> PictureLayout:
    """The layout that a checkpoint's `image_aspect_ratio` asks for.

    Args:
        config: the checkpoint's configuration.
        size: (width, height) of the picture in pixels.
        padded: as "pad", whatever the configuration says.
    """
    crop = config.crop(config.vision.patches_per_side)
    if padded or config.image_aspect_ratio == "pad":
        return PaddedLayout(size, crop)
    return AnyResolutionLayout(size, crop, config.canvases, config.max_grid_tiles)
