"""Element-wise Grad-CAM: what speaks for the word, channel by channel and token by token."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_core.errors import ConfigurationError
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["ElementWiseGradCAM"]


class ElementWiseGradCAM(Attribution):
    """M[s] = P (P / (P + N))^k, where P = sum_c ReLU(G[s, c] F[s, c]) and N = sum_c ReLU(-G[s, c] F[s, c]).

    `HiResCAM` lets channels that speak against a token cancel those that speak for it; here only the latter count.
    `GradTimesInput` counts both by their size. How large they are is mostly decided by how much attention a token
    gets, whichever word is asked for: with k above 0, tokens in which channels contradict each other count less, and
    the map depends more on the word.

    Args:
        one_sided: k, at least 0; 0 is the source's formula.
        centre: use the activations without their mean over the image tokens.

    Source: "GradCAMElementWise" of Gildenblat, pytorch-grad-cam.
    """

    def __init__(self, *, one_sided: float = 0.0, centre: bool = False) -> None:
        super().__init__()
        if one_sided < 0:
            raise ConfigurationError(f"one_sided is {one_sided}: give an exponent of at least 0")
        self.one_sided, self.centre = one_sided, centre

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        if self.centre:
            features = centred(features)
        products = at_least_float32(gradients) * features
        speaks_for = reduce(products.relu(), "b n c -> b n", "sum")
        if self.one_sided == 0:
            return speaks_for
        against = reduce((-products).relu(), "b n c -> b n", "sum")
        both = speaks_for + against
        # A token in which nothing speaks at all has no share, and no evidence either.
        return speaks_for * (speaks_for / both.where(both > 0, 1)) ** self.one_sided
