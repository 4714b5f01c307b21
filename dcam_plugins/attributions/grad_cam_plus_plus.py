"""Grad-CAM++: positive gradients, weighted by how much of a channel each token has to explain."""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32

__all__ = ["GradCAMPlusPlus"]


class GradCAMPlusPlus(Attribution):
    """M[s] = ReLU(sum_c w_c F[s, c]), with w_c = sum_s ReLU(G[s, c]) alpha[s, c].

    alpha[s, c] = G^2 / (2 G^2 + G^3 sum_t F[t, c] + epsilon): a token counts the less, the more of the same channel
    lies elsewhere, so that an object seen several times does not drown one seen once. The formula was derived for
    channels behind a ReLU. A channel of a transformer may sum to less than zero, alpha then has a pole, and the
    map may hang on few channels.

    Args:
        epsilon: keeps the fraction finite; gradients smaller than its square root count as zero.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, equations 10 and 19, for a score that enters by exp(S).
    """

    def __init__(self, *, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features, slopes = at_least_float32(activations), at_least_float32(gradients)
        squared, everywhere = slopes.square(), features.sum(dim=1, keepdim=True)
        share = squared / (2 * squared + everywhere * slopes * squared + self.epsilon)
        weights = einsum(slopes.relu(), share, "b n c, b n c -> b c")
        return einsum(features, weights, "b n c, b c -> b n").relu()
