"""Element-wise Grad-CAM: what speaks for the word, channel by channel and token by token."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["ElementWiseGradCAM"]


class ElementWiseGradCAM(Attribution):
    """M[s] = sum_c ReLU(G[s, c] F[s, c]).

    `HiResCAM` lets channels that speak against a token cancel those that speak for it; here only the latter count.
    `GradTimesInput` counts both by their size.

    Args:
        centre: use the activations without their mean over the image tokens.

    Source: "GradCAMElementWise" of Gildenblat, pytorch-grad-cam.
    """

    def __init__(self, *, centre: bool = False) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        if self.centre:
            features = centred(features)
        products = at_least_float32(gradients) * features
        return reduce(products.relu(), "b n c -> b n", "sum")
