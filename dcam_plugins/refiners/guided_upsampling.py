"""Edge-aware upsampling: from the token grid to the picture's own edges, guided by the picture."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32
from dcam_plugins._otsu import found_pixels

__all__ = ["GuidedUpsampling", "guided_upsampling", "outlined"]


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
    # All maps are channels of one picture, so that what the windows show is worked out once.
    stretched = F.interpolate(values[None], size, mode="bilinear", align_corners=False)
    guide = F.interpolate(picture[None].to(values.dtype), size, mode="bilinear", antialias=True)
    # The border is mirrored, which it can be no further than by its own length.
    window = [
        min(2 * round(cells * length / count / 2) + 1, 2 * length - 1)
        for length, count in zip(size, (rows, columns), strict=True)
    ]
    fitted = guided_blur(guide, stretched, (window[0], window[1]), epsilon, separable=True)
    return fitted[0].clamp(0, 1).to(maps.dtype)


def outlined(fine: Tensor, maps: Tensor, rest: float) -> Tensor:
    """Keep a fine map where it stands out, and the coarse map it came from everywhere else.

    A guided map smears what lies outside an object over the windows that reach there, and loses the order of it. But
    the rest of the evidence is evidence too: a word is also said because of what stands beside its object, and
    deleting and inserting by a map without it is no better than by the object's mask. So pixels above Otsu's
    threshold of the fine map take the upper part of the range, all others the coarse map in the lower, cell by cell.

    Args:
        fine: [B, H', W'] in [0, 1], any floating dtype.
        maps: [B, H, W] in [0, 1], same dtype, the coarse maps.
        rest: share of the range for the coarse map, 0 to 0.5; the upper part begins at twice that. The range is the
            coarse map's own, from 0 to its peak: a faint map stays faint, and a fine map, whose peak the windows
            have worn down, never lies below its own rest.

    Returns:
        [B, H', W'] in [0, 1], same dtype.
    """
    if not len(fine):
        return fine
    height, peak = maps.amax((1, 2), keepdim=True), fine.amax((1, 2), keepdim=True)
    shape = torch.where(peak > 0, fine / peak.where(peak > 0, 1), 0)
    coarse = F.interpolate(maps[:, None], fine.shape[-2:], mode="nearest-exact")[:, 0]
    return torch.where(found_pixels(shape), height * (2 * rest + (1 - 2 * rest) * shape), rest * coarse)


class GuidedUpsampling(Refiner):
    """`guided_upsampling` with the picture of the context.

    It believes that evidence ends where colours change. That sharpens the outline of what a map lies on; it cannot
    move a map to another object, and where an object has no edges of its own it only smooths.

    Args:
        cells: side of the window in cells of the token grid, > 0.
        pixels: most pixels per cell of the grid of the refined map, >= 1.
        epsilon: variance of colours below which a window counts as even, > 0.
        rest: None: the guided map is all. A share of the range, 0 to 0.5: outside the outline stands the map as it
            was, within this share; see `outlined`.
    """

    finer: ClassVar[bool] = True

    def __init__(
        self, *, cells: float = 2.0, pixels: int = 16, epsilon: float = 1e-3, rest: float | None = None
    ) -> None:
        super().__init__()
        if rest is not None and not 0 <= rest <= 0.5:
            raise ConfigurationError(
                f"guided-upsampling with rest={rest}: give the share of the range that is left to what lies outside "
                "the outline, 0 to 0.5, or null for the guided map alone"
            )
        if cells <= 0 or pixels < 1 or epsilon <= 0:
            raise ConfigurationError(
                f"guided-upsampling with cells={cells}, pixels={pixels}, epsilon={epsilon}: give cells and epsilon "
                "above 0, and at least 1 pixel"
            )
        self.cells, self.pixels, self.epsilon, self.rest = cells, pixels, epsilon, rest

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`, on a finer grid."""
        if context.picture is None:
            raise ConfigurationError(
                "guided-upsampling needs the picture, and it was not given: pass pictures= to explain_run, or leave "
                "the refiner out (refiners.guided-upsampling=null)"
            )
        fine = guided_upsampling(maps, context.picture, self.cells, self.pixels, self.epsilon)
        return fine if self.rest is None else outlined(fine, maps, self.rest)
