"""Where a map lies, against the mask of the object that the word names. Batched, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_plugins._otsu import found_pixels, otsu_threshold

__all__ = [
    "Overlap",
    "energy_inside",
    "found_pixels",
    "intersection_over_union",
    "otsu_threshold",
    "overlap",
    "pointing",
]


class Overlap(NamedTuple):
    """How well found pixels agree with an object.

    Attributes:
        iou: [B] float64 in [0, 1], |found and object| / |found or object|.
        precision: [B] float64 in [0, 1], |found and object| / |found|; 0 where nothing is found.
        recall: [B] float64 in [0, 1], |found and object| / |object|; 0 where there is no object.
    """

    iou: Tensor
    precision: Tensor
    recall: Tensor


def overlap(found: Tensor, masks: Tensor) -> Overlap:
    """Count the pixels that are found, those of the object, and those that are both.

    Args:
        found: [B, H, W] bool.
        masks: [B, H, W] bool, the object.
    """
    # Whole numbers, divided in float64: torch divides integers in float32.
    size, area, both = (pixels.flatten(1).sum(1).double() for pixels in (found, masks, found & masks))
    return Overlap(
        both / (size + area - both).clamp(min=1), both / size.clamp(min=1), both / area.clamp(min=1)
    )


def intersection_over_union(maps: Tensor, masks: Tensor) -> Tensor:
    """IoU of the map binarised at Otsu's threshold and the object.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object; must not be empty.

    Returns:
        [B] float64 in [0, 1].
    """
    return overlap(found_pixels(maps), masks).iou


def pointing(maps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Pointing game: does the map's highest pixel, the first in raster order, lie on the object?

    Args:
        maps: [B, H, W].
        masks: [B, H, W] bool, the object.
        tolerance: pixels by which the highest pixel may miss the object, in x and in y.

    Returns:
        [B] bool. A map that is the same everywhere points nowhere: a miss.
    """
    if tolerance:
        side = 2 * tolerance + 1
        masks = F.max_pool2d(masks[:, None].float(), side, stride=1, padding=tolerance)[:, 0] > 0
    flat = maps.flatten(1)
    hit = masks.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]
    return hit & (flat.amax(1) > flat.amin(1))


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy-based pointing game: the share of the map's mass that lies on the object.

    Args:
        maps: [B, H, W], >= 0.
        masks: [B, H, W] bool, the object.

    Returns:
        [B] float64 in [0, 1]; 0 for a zero map. A uniform map scores the object's share of the area.
    """
    total = maps.double().flatten(1).sum(1)
    return (maps.double() * masks).flatten(1).sum(1) / total.clamp(min=torch.finfo(torch.float64).tiny)
