"""Edge-aware upsampling: from the token grid to the picture's own edges, guided by the picture."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32

__all__ = ["GuidedUpsampling", "guided_upsampling"]


def guided_upsampling(maps: Tensor, picture: Tensor, cells: float, pixels: int, epsilon: float) -> Tensor:
    """Upsample maps to the edges of a picture.

    The maps are stretched to a working size, and inside every window replaced by the linear function of the picture's
    colours that lies nearest to them: where colours change, the map may change, and nowhere else.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype (half precision is computed in float32).
        picture: [3, height, width] in [0, 1].
        cells: side of the window in cells of the maps' grid.
        pixels: a cell becomes at most this many pixels high and wide; a picture that is smaller keeps its size.
        epsilon: variance of colours below which a window counts as even, in squared intensities.

    Returns:
        [B, H', W'] in [0, 1], same dtype; H' = min(height, H * pixels), at least H; W' likewise.

    Source: He, Sun and Tang, "Guided Image Filtering", ECCV 2010, with a colour picture as guide.
    """
    rows, columns = maps.shape[-2:]
    size = tuple(
        max(count, min(length, count * pixels))
        for count, length in zip((rows, columns), picture.shape[-2:], strict=True)
    )
    if not len(maps):
        return maps.new_zeros(0, *size)
    values = at_least_float32(maps)
    stretched = F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)
    guide = F.interpolate(picture[None].to(values.dtype), size, mode="bilinear", antialias=True)
    # The border is mirrored, which it can be no further than by its own length.
    window = [
        min(2 * round(cells * length / count / 2) + 1, 2 * length - 1)
        for length, count in zip(size, (rows, columns), strict=True)
    ]
    shown = guide.expand(len(maps), -1, -1, -1)
    fitted = guided_blur(shown, stretched, (window[0], window[1]), epsilon)
    return fitted[:, 0].clamp(0, 1).to(maps.dtype)


class GuidedUpsampling(Refiner):
    """`guided_upsampling` with the picture of the context.

    It believes that evidence ends where colours change. That sharpens the outline of what a map lies on; it cannot
    move a map to another object, and where an object has no edges of its own it only smooths.

    Args:
        cells: side of the window in cells of the token grid, > 0.
        pixels: most pixels per cell of the grid of the refined map, >= 1.
        epsilon: variance of colours below which a window counts as even, > 0.
    """

    finer: ClassVar[bool] = True

    def __init__(self, *, cells: float = 2.0, pixels: int = 16, epsilon: float = 1e-3) -> None:
        super().__init__()
        if cells <= 0 or pixels < 1 or epsilon <= 0:
            raise ConfigurationError(
                f"guided-upsampling with cells={cells}, pixels={pixels}, epsilon={epsilon}: give cells and epsilon "
                "above 0, and at least 1 pixel"
            )
        self.cells, self.pixels, self.epsilon = cells, pixels, epsilon

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`, on a finer grid."""
        if context.picture is None:
            raise ConfigurationError(
                "guided-upsampling needs the picture, and it was not given: pass pictures= to explain_run, or leave "
                "the refiner out (refiners.guided-upsampling=null)"
            )
        return guided_upsampling(maps, context.picture, self.cells, self.pixels, self.epsilon)
