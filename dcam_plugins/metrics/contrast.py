"""How much higher the map stands on the object than beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed

__all__ = [
    "PERFECT_RATIO",
    "ContrastRatio",
    "ContrastScore",
    "contrast_ratio",
    "contrast_score",
    "mean_inside_and_outside",
]

GREY_LEVEL = 1 / 255
"""A background darker than one of the 256 grey levels is black to the metrics that count in them, as Otsu's does."""

PERFECT_RATIO = 20.0
"""The contrast ratio that the published contrast score and F3 take for perfect."""


def mean_inside_and_outside(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the map on the object and beside it.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object.

    Returns:
        Two [B] float64 in [0, 1]; NaN where there is no such pixel.
    """
    values, inside = maps.double().flatten(1), masks.flatten(1)
    count = inside.sum(1)
    on_object = values.where(inside, 0).sum(1)
    beside = values.where(~inside, 0).sum(1)
    return on_object / count, beside / (inside.shape[1] - count)


def contrast_ratio(maps: Tensor, masks: Tensor, floor: float = GREY_LEVEL) -> Tensor:
    """How many times higher the map stands on the object than beside it.

    Args:
        maps: [B, H, W] in [0, 1].
        masks: [B, H, W] bool, the object; neither empty nor the whole picture.
        floor: the smallest background that is told from black; keeps a clean map's ratio finite.

    Returns:
        [B] float64 in [0, 1 / floor].
    """
    inside, outside = mean_inside_and_outside(maps, masks)
    return inside / outside.clamp(min=floor)


def contrast_score(ratio: Tensor, perfect: float = PERFECT_RATIO) -> Tensor:
    """A contrast ratio as a share of one that counts as perfect.

    Args:
        ratio: [...] floating, >= 0.
        perfect: the ratio from which on the score is 1.

    Returns:
        [...] in [0, 1], of the same dtype.
    """
    return (ratio / perfect).clamp(max=1)


class ContrastRatio(Metric):
    """Mean of the map on the object over its mean beside it; 1 for an even map, 255 at most.

    The released evaluation adds 1e-8 to the background's mean instead, and one clean map then is 1e8 in a data set's
    mean. Here a background of less than one grey level of 256 counts as one; above that the numbers are the same.

    Args:
        floor: the smallest background that is told from black, above 0.
        options: see `torchmetrics.Metric`.

    Raises:
        ConfigurationError: the floor is not above 0.

    Source: contrast of Diffusion-CAM, arXiv 2604.11005.
    """

    def __init__(self, *, floor: float = GREY_LEVEL, **options: Any) -> None:
        super().__init__(**options)
        if not floor > 0:
            raise ConfigurationError(f"contrast-ratio: floor is {floor}: give a number above 0")
        self.floor = floor

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(contrast_ratio(maps, masks, self.floor), masks)


class ContrastScore(Metric):
    """The contrast ratio as a share of a ratio that counts as perfect, 0 to 1: min(ratio / 20, 1).

    Args:
        perfect: the ratio from which on the score is 1; at most 255, a lone object's ratio on black.
        options: see `torchmetrics.Metric`.

    Raises:
        ConfigurationError: `perfect` is not in (0, 255].

    Source: contrast score of the released evaluation of Diffusion-CAM.
    """

    def __init__(self, *, perfect: float = PERFECT_RATIO, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < perfect <= 1 / GREY_LEVEL:
            raise ConfigurationError(f"contrast-score: perfect is {perfect}: give a number in (0, 255]")
        self.perfect = perfect

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(contrast_score(contrast_ratio(maps, masks), self.perfect), masks)
