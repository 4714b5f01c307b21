"""Overlap of the thresholded map and the object."""

from __future__ import annotations

from torch import Tensor

from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed
from dcam_plugins.metrics.localisation import intersection_over_union

__all__ = ["IntersectionOverUnion"]


class IntersectionOverUnion(Metric):
    """IoU of the object and the map binarised at Otsu's threshold, 0 to 1.

    Which object belongs to a map is for the caller to say. An empty mask, which released code scores 0, has no
    score.

    Source: Obj-IoU of Li et al., "Token Activation Map", ICCV 2025; specification of the method, section 9.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(intersection_over_union(maps, masks), masks)
