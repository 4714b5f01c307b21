"""Element-wise Grad-CAM: what speaks for the word, channel by channel and token by token."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32

__all__ = ["ElementWiseGradCAM"]


class ElementWiseGradCAM(Attribution):
    """M[s] = sum_c ReLU(G[s, c] F[s, c]).

    `HiResCAM` lets channels that speak against a token cancel those that speak for it; here only the latter count.
    `GradTimesInput` counts both by their size.

    Source: "GradCAMElementWise" of Gildenblat, pytorch-grad-cam.
    """

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        products = at_least_float32(gradients) * at_least_float32(activations)
        return reduce(products.relu(), "b n c -> b n", "sum")
