"""Contextual Background Attenuation (CBA): halve what is background, gently at the edge."""

from __future__ import annotations

from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32, percentile

__all__ = ["ContextualBackgroundAttenuation", "background_threshold", "contextual_background_attenuation"]

_THRESHOLD_OF_NOTHING = 1e-6


def background_threshold(maps: Tensor) -> Tensor:
    """The value below which a pixel is background.

        T = 0.15 P50(x > 0) + 0.15 P60(x) + 0.20 mean(x > 0) + 0.015 max(x)

    P50 and the mean look at positive pixels only, P60 and the maximum at all.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.

    Returns:
        [B] positive, 1e-6 for a map without positive pixels; float32, or float64 for float64 maps.

    Source: released code, specification of the method, section 5 (the paper shows one threshold, delta).
    """
    values = at_least_float32(maps).flatten(1)
    ordered = values.sort(dim=1).values
    positive = (values > 0).sum(dim=1)
    threshold = (
        0.15 * percentile(ordered, positive, 50)
        + 0.15 * percentile(ordered, positive.new_full(positive.shape, values.shape[1]), 60)
        + 0.20 * values.clamp_min(0).sum(dim=1) / positive.clamp_min(1)
        + 0.015 * ordered[:, -1]
    )
    return threshold.where(positive > 0, _THRESHOLD_OF_NOTHING)


def contextual_background_attenuation(maps: Tensor, thresholds: Tensor, *, floor: float = 0.5) -> Tensor:
    """Multiply every pixel below its map's threshold by max(x / threshold, floor).

    The result is continuous and increasing: linear below floor * threshold, then quadratic, and at the
    threshold the factor reaches 1.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.
        thresholds: [B], see `background_threshold`.
        floor: the smallest factor, 0 to 1.

    Returns:
        [B, H, W], same dtype.
    """
    values = at_least_float32(maps)
    factor = (values / thresholds[:, None, None].clamp_min(1e-8)).clamp(floor, 1.0)
    return (values * factor).to(maps.dtype)


class ContextualBackgroundAttenuation(Refiner):
    """`contextual_background_attenuation` at each map's own `background_threshold`.

    The factor is that of the paper's worked example, which the released code computes too: max(x / T, 0.5).
    (The formula beside the example has a minimum, which would brighten nothing and halve the foreground.)
    The release's additional rule for pixels below a fifth of the threshold is undone by its own floor and
    therefore left out.

    Args:
        floor: the smallest factor, 0 to 1: background is never removed, only weakened to this share.

    Raises:
        ConfigurationError: if the floor is not in 0 ... 1.

    Source: paper, module CBA; specification of the method, section 5 (defects D16 and D17).
    """

    def __init__(self, *, floor: float = 0.5) -> None:
        super().__init__()
        if not 0 <= floor <= 1:
            raise ConfigurationError(
                f"contextual-background-attenuation: floor is {floor}: give the share of background that is "
                "kept, from 0 to 1"
            )
        self.floor = floor

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`. The context is not used."""
        return contextual_background_attenuation(maps, background_threshold(maps), floor=self.floor)
