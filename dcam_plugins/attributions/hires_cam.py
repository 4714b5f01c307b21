"""HiResCAM: activation times gradient, token by token."""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["HiResCAM"]


class HiResCAM(Attribution):
    """M[s] = ReLU(sum_c G[s, c] F[s, c]).

    Unlike Grad-CAM it does not average the gradient over the picture first, so a token counts only where
    the model used it.

    Args:
        centre: use the activations without their mean over the image tokens.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020.
    """

    def __init__(self, *, centre: bool = False) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        if self.centre:
            features = centred(features)
        return einsum(at_least_float32(gradients), features, "b n c, b n c -> b n").relu()
