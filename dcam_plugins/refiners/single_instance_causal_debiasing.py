"""Single-Instance Causal Debiasing (SICD): subtract what a confounder explains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32, least_squares_scale

__all__ = ["SingleInstanceCausalDebiasing", "repeated_token_share", "single_instance_causal_debiasing"]


def repeated_token_share(ids: Sequence[int]) -> float:
    """Number of distinct tokens that occur at least twice, divided by the number of all tokens.

    Args:
        ids: token ids; equality is by id.

    Returns:
        0 to 0.5; 0 for no tokens.
    """
    repeated = sum(count >= 2 for count in Counter(ids).values())
    return repeated / len(ids) if ids else 0.0


def single_instance_causal_debiasing(
    maps: Tensor,
    repeated_share: float,
    *,
    repetition_weight: float = 0.02,
    peak_weight: float = 0.05,
    largest_scale: float = 0.5,
    smallest_range: float = 0.9,
) -> Tensor:
    """Subtract from each map the part that its interference pattern explains.

    The pattern is I = repetition_weight * repeated_share everywhere, plus peak_weight where the map is more
    than two standard deviations above its mean. The map becomes

        max(X - a I, 0),    a = min(<X, I> / <I, I>, largest_scale),

    the first term of the minimum being the least-squares fit of the pattern to the map. A map whose range
    would shrink below `smallest_range` of what it was is kept as it is.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.
        repeated_share: share of repeated tokens in the answer, see `repeated_token_share`.
        repetition_weight: weight of the repeated tokens.
        peak_weight: weight of the outstandingly high pixels.
        largest_scale: cap of a; on maps that fill [0, 1] it is always reached.
        smallest_range: 0 to 1; 0 keeps every result.

    Returns:
        [B, H, W], same dtype.
    """
    values = at_least_float32(maps)
    spread, mean = torch.std_mean(values, dim=(1, 2), correction=0, keepdim=True)
    pattern = repetition_weight * repeated_share + peak_weight * (values > mean + 2 * spread).to(values.dtype)
    scale = least_squares_scale(values, pattern).clamp_max(largest_scale)
    debiased = (values - scale[:, None, None] * pattern).clamp_min(0)
    keeps_range = _value_range(debiased) >= smallest_range * _value_range(values)
    return debiased.where(keeps_range, values).to(maps.dtype)


class SingleInstanceCausalDebiasing(Refiner):
    """`single_instance_causal_debiasing` with the repeated tokens of the answer.

    The defaults are the paper's: its figure puts 0.05 beside the peaks and 0.02 beside the repeated tokens,
    and tokens means the answer's. The released code has the two weights the other way round and counts the
    whole answer region, so that the end-of-text token almost always repeats: give `repetition_weight=0.05`,
    `peak_weight=0.02` and `count_padding=True` to get its numbers.

    Args:
        repetition_weight: weight of the share of repeated tokens, >= 0; it lowers the whole map evenly.
        peak_weight: weight of pixels two standard deviations above the mean, >= 0.
        count_padding: count the ids behind the answer as well, if the context has them.
        largest_scale: cap of the fitted scale, >= 0.
        smallest_range: share of its range that a map must keep, or it stays as it was; 0 to 1.

    Raises:
        ConfigurationError: if a weight or the cap is negative, or the range not in 0 ... 1.

    Source: paper, module SICD; specification of the method, section 7 (defects D20 to D22).
    """

    def __init__(
        self,
        *,
        repetition_weight: float = 0.02,
        peak_weight: float = 0.05,
        count_padding: bool = False,
        largest_scale: float = 0.5,
        smallest_range: float = 0.9,
    ) -> None:
        super().__init__()
        self.weights = {
            "repetition_weight": repetition_weight,
            "peak_weight": peak_weight,
            "largest_scale": largest_scale,
            "smallest_range": smallest_range,
        }
        for name, value in self.weights.items():
            if value < 0:
                raise ConfigurationError(
                    f"single-instance-causal-debiasing: {name} is {value}: give 0 or a positive number"
                )
        if smallest_range > 1:
            raise ConfigurationError(
                f"single-instance-causal-debiasing: smallest_range is {smallest_range}, but subtracting "
                "cannot widen a map: give a share from 0 to 1"
            )
        self.count_padding = count_padding

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`."""
        ids = context.answer_ids + (context.padding_ids if self.count_padding else ())
        return single_instance_causal_debiasing(maps, repeated_token_share(ids), **self.weights)


def _value_range(maps: Tensor) -> Tensor:
    """[B, 1, 1], largest minus smallest value of each map."""
    return maps.amax(dim=(1, 2), keepdim=True) - maps.amin(dim=(1, 2), keepdim=True)
