"""What the metrics share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["where_there_is_an_object"]


def where_there_is_an_object(scores: Tensor, masks: Tensor) -> Tensor:
    """Scores as `dcam_core.Metric.score` gives them: without an object there is nothing to find, and no score.

    Args:
        scores: [B], any dtype.
        masks: [B, H, W] bool.

    Returns:
        [B] float64, NaN where the mask is empty.
    """
    return scores.double().where(masks.flatten(1).any(1), float("nan"))
