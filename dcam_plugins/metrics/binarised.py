"""Measures of the map binarised at Otsu's threshold: precision, recall and their harmonic mean."""

from __future__ import annotations

import torch
from torch import Tensor

from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import harmonic_mean, where_something_can_be_missed
from dcam_plugins.metrics.localisation import found_pixels, overlap

__all__ = ["F1", "Precision", "Recall", "precision_recall"]


def precision_recall(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of the pixels above Otsu's threshold.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object.

    Returns:
        Each [B] float64 in [0, 1]; 0 where nothing is found, or where there is no object.
    """
    found = overlap(found_pixels(maps), masks)
    return found.precision, found.recall


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
        parts = torch.stack(precision_recall(maps, masks), dim=-1)
        return where_something_can_be_missed(harmonic_mean(parts), masks)
