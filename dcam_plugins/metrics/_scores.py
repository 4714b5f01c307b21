"""What the metrics share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["harmonic_mean", "where_something_can_be_missed"]


def harmonic_mean(parts: Tensor) -> Tensor:
    """Harmonic mean over the last dimension; 0 where any part is 0.

    Args:
        parts: [..., K] float64, >= 0.

    Returns:
        [...] float64.
    """
    inverse = (1 / parts.where(parts > 0, 1)).sum(-1)
    return (parts.shape[-1] / inverse).where((parts > 0).all(-1), 0)


def where_something_can_be_missed(scores: Tensor, masks: Tensor) -> Tensor:
    """Scores as `dcam_core.Metric.score` gives them: NaN where a mask leaves nothing to find or nothing to miss.

    Every metric leaves out the same maps, so that their means are over the same words and can be compared.

    Args:
        scores: [B], any dtype.
        masks: [B, H, W] bool.

    Returns:
        [B] float64, NaN where the mask is empty or covers the whole picture.
    """
    pixels = masks.flatten(1)
    return scores.double().where(pixels.any(1) & ~pixels.all(1), float("nan"))
