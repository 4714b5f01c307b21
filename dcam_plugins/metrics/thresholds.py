"""Measures that choose no threshold: IoU over many of them, and the average precision of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed
from dcam_plugins.metrics.localisation import overlap

__all__ = ["AveragePrecision", "MeanIoU", "average_precision", "mean_iou"]

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.1 ... 0.95."""


def mean_iou(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Mean over thresholds of the IoU of the object and the pixels above the threshold.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object; must not be empty.
        thresholds: at least one, each in [0, 1).

    Returns:
        [B] float64 in [0, 1].
    """
    scores = torch.zeros(len(maps), dtype=torch.float64, device=maps.device)
    values = maps.double()
    for threshold in thresholds:  # one after the other: all at once would hold a copy of the maps for each
        scores += overlap(values > threshold, masks).iou
    return scores / len(thresholds)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Area under the precision-recall curve of the pixels, highest first, without interpolation.

    Pixels of the same value are found together: their order says nothing.

    Args:
        maps: [B, H, W], any range.
        masks: [B, H, W] bool, the object; must not be empty.

    Returns:
        [B] float64 in [0, 1]. An even map scores the object's share of the area.
    """
    values, order = maps.flatten(1).sort(dim=1, descending=True)
    hits = masks.flatten(1).gather(1, order)
    count = values.shape[1]
    rank = torch.arange(1, count + 1, device=maps.device)
    last = torch.cat([values[:, 1:] != values[:, :-1], torch.ones_like(hits[:, :1])], dim=1)
    # For every pixel the rank at which the last one of its value is found.
    together = torch.where(last, rank, count).flip(1).cummin(1).values.flip(1)
    precision = hits.cumsum(1).double().gather(1, together - 1) / together
    return precision.where(hits, 0).sum(1) / hits.sum(1).clamp(min=1)


class MeanIoU(Metric):
    """IoU of the object and the pixels above a threshold, averaged over thresholds, 0 to 1.

    Args:
        thresholds: each in [0, 1); by default 0.05, 0.1 ... 0.95.
        options: see `torchmetrics.Metric`.

    Raises:
        ConfigurationError: there is no threshold, or one is not in [0, 1).

    Source: MaxBoxAccV2's idea of averaging thresholds away, Choe et al., CVPR 2020, for masks.
    """

    def __init__(self, *, thresholds: Sequence[float] = THRESHOLDS, **options: Any) -> None:
        super().__init__(**options)
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        if not self.thresholds or not all(0 <= threshold < 1 for threshold in self.thresholds):
            raise ConfigurationError(
                f"miou: thresholds are {list(thresholds)}: give at least one number in [0, 1)"
            )

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(mean_iou(maps, masks, self.thresholds), masks)


class AveragePrecision(Metric):
    """Average precision of the pixels as a ranking, 0 to 1; an even map scores the object's share of the area.

    Blind to every change of the map's values that keeps their order.

    Source: PxAP of Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(average_precision(maps, masks), masks)
