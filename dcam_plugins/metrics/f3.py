"""F3: Obj-IoU, contrast and concentration in one number, per picture and of data set means."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics
from torch import Tensor

from dcam_core.metric import Metric, check_maps_and_masks
from dcam_plugins.metrics._scores import harmonic_mean, where_something_can_be_missed
from dcam_plugins.metrics.contrast import contrast_ratio, contrast_score
from dcam_plugins.metrics.localisation import energy_inside, intersection_over_union

__all__ = ["F3OfMeans", "MeanF3", "f3_parts", "f3_score"]


def f3_parts(maps: Tensor, masks: Tensor) -> Tensor:
    """What F3 is made of.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object; neither empty nor the whole picture.

    Returns:
        [B, 3] float64: IoU at Otsu's threshold; contrast ratio, which is not yet a score; concentration.
    """
    return torch.stack(
        [intersection_over_union(maps, masks), contrast_ratio(maps, masks), energy_inside(maps, masks)],
        dim=-1,
    )


def f3_score(parts: Tensor) -> Tensor:
    """F3: the harmonic mean of IoU, contrast score and concentration.

    Args:
        parts: [..., 3] float64, as `f3_parts` gives them, or means of such: IoU, contrast ratio, concentration.

    Returns:
        [...] float64 in [0, 1]; a ratio above `PERFECT_RATIO` counts as that.
    """
    iou, ratio, concentration = parts.unbind(-1)
    return harmonic_mean(torch.stack([iou, contrast_score(ratio), concentration], dim=-1))


class MeanF3(Metric):
    """Harmonic mean of Obj-IoU, contrast score and concentration of every map, 0 to 1, averaged over the maps.

    What the main loop of the released evaluation averages. It is not what the paper's tables print: those are
    `F3OfMeans`, and larger unless all pictures score the same.

    Source: released evaluation of Diffusion-CAM.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(f3_score(f3_parts(maps, masks)), masks)


class F3OfMeans(torchmetrics.Metric):
    """Harmonic mean of a data set's means of Obj-IoU, contrast ratio / 20 and concentration: the published F3.

    No mean of scores, so that it is not a `dcam_core.Metric`: a map has no F3 of means. The mean ratio counts as
    20 at most.

    Attributes:
        totals: [3] float64, sums of IoU, contrast ratio and concentration since the last reset.
        defined: [] int64, number of maps in the sums.
        undefined: [] int64, number of maps left out: those whose mask is empty or the whole picture.

    Source: 12 of the 14 published rows of arXiv 2604.11005 are this function of the other columns.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    totals: Tensor
    defined: Tensor
    undefined: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("totals", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("defined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add a batch to the means.

        Args:
            maps: [B, H, W] in [0, 1]; B may be 0, and H and W differ between calls.
            masks: [B, H, W] bool, the object of every map.

        Raises:
            UsageError: shapes, dtypes or values are not as said.
        """
        check_maps_and_masks(maps, masks)
        pixels = masks.flatten(1)
        usable = pixels.any(1) & ~pixels.all(1)
        self.totals += f3_parts(maps[usable], masks[usable]).sum(0)
        self.defined += usable.sum()
        self.undefined += (~usable).sum()

    def compute(self) -> Tensor:
        """[] float64 in [0, 1]; NaN if no map counted."""
        return f3_score(self.totals / self.defined).where(self.defined > 0, float("nan"))
