"""Maps and masks that metrics are tried on, and a metric's sums over them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from dcam_core.metric import Metric
from dcam_core.testing import _calls

__all__ = ["SIZE", "computed", "example_maps", "example_masks", "fresh", "poor_maps"]

SIZE = (12, 10)
"""(height, width) of the examples, in pixels."""


def example_masks() -> Tensor:
    """[4, H, W] bool: a rectangle in the middle, one at the border, two parts, and a single pixel."""
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    masks[0, 3:9, 2:7] = True
    masks[1, :4, 6:] = True
    masks[2, 1:4, 1:4] = masks[2, 8:11, 5:9] = True
    masks[3, 7, 3] = True
    return masks


def example_maps(dtype: torch.dtype = torch.float64) -> Tensor:
    """[4, H, W] random maps in [0, 1]."""
    return torch.rand(4, *SIZE, dtype=torch.float64, generator=_calls.seeded()).to(dtype)


def poor_maps(masks: Tensor) -> dict[str, Tensor]:
    """Maps that know nothing of the masks, or the wrong thing."""
    maps = masks.double()
    corner = torch.zeros_like(maps)
    corner[:, 0, 0] = 1
    return {
        "the inverted mask": 1 - maps,
        "a random map": example_maps(),
        "an even map": torch.full_like(maps, 0.5),
        "ones": torch.ones_like(maps),
        "zeros": torch.zeros_like(maps),
        "a single pixel in a corner": corner,
        "half of the mask, and as much beside it": (maps + maps.flip(2)) / 2,
    }


def fresh(metric: Metric) -> Metric:
    """The same metric before its first update; the one under examination is never written to."""
    twin = copy.deepcopy(metric)
    twin.reset()
    return twin


def computed(metric: Metric, *batches: tuple[Tensor, Tensor]) -> tuple[Tensor, int, int]:
    """Mean, number of maps with a score, and number of those without."""
    twin = fresh(metric)
    for maps, masks in batches:
        twin.update(maps, masks)
    return twin.compute(), int(twin.defined), int(twin.undefined)
