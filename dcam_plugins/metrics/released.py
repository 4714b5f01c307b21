"""The numbers of the released evaluation of Diffusion-CAM, as it computes them, so that its tables can be compared.

Not how dcam measures: the object is chosen by looking at the map, all annotated objects together are the foreground
of contrast and concentration, and pictures without object or background count with made-up values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchmetrics
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.metric import check_maps_and_masks
from dcam_plugins.metrics._scores import harmonic_mean
from dcam_plugins.metrics.contrast import contrast_score
from dcam_plugins.metrics.f3 import f3_score
from dcam_plugins.metrics.localisation import found_pixels, otsu_threshold, overlap

__all__ = ["BestClass", "ReleasedScores", "best_class", "released_scores"]

_EPSILON = 1e-8


class BestClass(NamedTuple):
    """The class of a label map that a map fits best, and how well.

    Attributes:
        label: [B] int64, the class; the smallest of equals; 0 where there is none.
        iou: [B] float64 in [0, 1], its IoU with the map at Otsu's threshold: the oracle Obj-IoU.
        precision: [B] float64 in [0, 1], of the same pixels.
        recall: [B] float64 in [0, 1], of the same pixels.
    """

    label: Tensor
    iou: Tensor
    precision: Tensor
    recall: Tensor


def best_class(maps: Tensor, labels: Tensor) -> BestClass:
    """Obj-IoU with an oracle: the best over all classes in the picture, whichever word is explained.

    Args:
        maps: [B, H, W] in [0, 1].
        labels: [B, H, W] integer, class of every pixel, 0 is background.

    Returns:
        The best class of each map; zeros where the picture has no class.
    """
    found = found_pixels(maps)
    zero = torch.zeros(len(maps), dtype=torch.float64, device=maps.device)
    best = BestClass(zero.long(), zero, zero, zero)
    for label in torch.unique(labels).tolist():  # in ascending order: the first of equals stays
        if label == 0:
            continue
        mask = labels == label
        candidate = BestClass(torch.full_like(best.label, label), *overlap(found, mask))
        better = (candidate.iou > best.iou) | ((best.label == 0) & mask.flatten(1).any(1))
        best = BestClass(*(torch.where(better, new, old) for new, old in zip(candidate, best, strict=True)))
    return best


def released_scores(maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Every number that the released evaluation gives to a picture.

    Args:
        maps: [B, H, W] in [0, 1], at the size of the label map.
        labels: [B, H, W] integer, class of every pixel, 0 is background.

    Returns:
        [B] float64 each: `obj_iou`, `precision` and `recall` of the best class; `detection_f1` of these two;
        `func_iou`, the share of pixels below the map's own Otsu threshold, 0 without object (no function word is in
        it); `contrast_ratio`, up to 1e8; `contrast_score`, `concentration`, and `f3` of the picture.
    """
    best = best_class(maps, labels)
    values, inside = maps.double().flatten(1), (labels > 0).flatten(1)
    objects, background = inside.sum(1), (~inside).sum(1)
    on_objects = values.where(inside, 0).sum(1)
    beside = values.where(~inside, 0).sum(1) / background.clamp(min=1)
    # Without an object the release puts 1 for the mean on objects.
    ratio = torch.where(objects > 0, on_objects / objects.clamp(min=1), 1) / (beside + _EPSILON)
    concentration = on_objects / (values.sum(1) + _EPSILON)
    below = (values < otsu_threshold(maps)[:, None] / 255).double().mean(1)
    return {
        "obj_iou": best.iou,
        "precision": best.precision,
        "recall": best.recall,
        "detection_f1": harmonic_mean(torch.stack([best.precision, best.recall], dim=-1)),
        "func_iou": below.where(objects > 0, 0),
        "contrast_ratio": ratio,
        "contrast_score": contrast_score(ratio),
        "concentration": concentration,
        "f3": f3_score(torch.stack([best.iou, ratio, concentration], dim=-1)),
    }


class ReleasedScores(torchmetrics.Metric):
    """Means of `released_scores` over pictures, with both F3: of each picture, and of the means.

    Nothing is left out, degenerate pictures neither: that is what is compared.

    Attributes:
        totals: [9] float64, sums of the scores since the last reset.
        pictures: [] int64, how many there were.

    Source: released evaluation of Diffusion-CAM (arXiv 2604.11005); specification of the method, section 9.
    """

    full_state_update = False
    is_differentiable = False

    totals: Tensor
    pictures: Tensor

    NAMES = (
        "obj_iou",
        "precision",
        "recall",
        "detection_f1",
        "func_iou",
        "contrast_ratio",
        "contrast_score",
        "concentration",
        "f3",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("totals", torch.zeros(len(self.NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pictures", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Add a batch of pictures.

        Args:
            maps: [B, H, W] in [0, 1].
            labels: [B, H, W] integer, class of every pixel, 0 is background.

        Raises:
            UsageError: shapes, dtypes or values are not as said.
        """
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise UsageError(f"labels are {labels.dtype}: give a label map of integers, 0 for background")
        check_maps_and_masks(maps, labels > 0)
        scores = released_scores(maps, labels)
        self.totals += torch.stack([scores[name].sum() for name in self.NAMES])
        self.pictures += len(maps)

    def compute(self) -> dict[str, Tensor]:
        """Name -> mean, [] float64, NaN without pictures; "f3" is called "mean_F3" here, beside "F3_of_means"."""
        means = dict(zip(self.NAMES, (self.totals / self.pictures).unbind(), strict=True))
        parts = [means[name] for name in ("obj_iou", "contrast_ratio", "concentration")]
        of_means = f3_score(torch.stack(parts)).where(self.pictures > 0, float("nan"))
        return {**means, "mean_F3": means.pop("f3"), "F3_of_means": of_means}
