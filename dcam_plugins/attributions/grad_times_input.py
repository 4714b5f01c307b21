"""Gradient times input, summed by magnitude."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["GradTimesInput"]


class GradTimesInput(Attribution):
    """M[s] = sum_c |G[s, c] F[s, c]|.

    Evidence for and against counts alike: the map says how much the model looked at a token, not in which
    direction it moved the scalar.

    Args:
        centre: use the activations without their mean over the image tokens.

    Source: Shrikumar et al., "Not just a black box", 2016 (gradient times input), with the magnitude taken
    per channel, before the sum.
    """

    def __init__(self, *, centre: bool = False) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        if self.centre:
            features = centred(features)
        return reduce((at_least_float32(gradients) * features).abs(), "b n c -> b n", "sum")
