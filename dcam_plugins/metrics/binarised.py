"""Measures of the map binarised at Otsu's threshold: precision, recall and their harmonic mean."""

from __future__ import annotations

from torch import Tensor

from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed
from dcam_plugins.metrics.localisation import found_pixels

__all__ = ["F1", "Precision", "Recall", "precision_recall"]


def precision_recall(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of the pixels above Otsu's threshold.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object.

    Returns:
        |found and object| / |found| and |found and object| / |object|, each [B] float64 in [0, 1]; 0 where nothing
        is found, or where there is no object.
    """
    found = found_pixels(maps)
    both = (found & masks).flatten(1).sum(1).double()
    return both / found.flatten(1).sum(1).clamp(min=1), both / masks.flatten(1).sum(1).clamp(min=1)


class Precision(Metric):
    """Share of the map, binarised at Otsu's threshold, that lies on the object, 0 to 1.

    Source: precision of Li et al., "Token Activation Map", ICCV 2025.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(precision_recall(maps, masks)[0], masks)


class Recall(Metric):
    """Share of the object that the map, binarised at Otsu's threshold, covers, 0 to 1.

    Source: recall of Li et al., "Token Activation Map", ICCV 2025.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(precision_recall(maps, masks)[1], masks)


class F1(Metric):
    """Harmonic mean of `Precision` and `Recall`, 0 to 1. With the IoU J of the same pixels it is 2 J / (1 + J)."""

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        precision, recall = precision_recall(maps, masks)
        total = precision + recall
        return where_something_can_be_missed(2 * precision * recall / total.where(total > 0, 1), masks)
