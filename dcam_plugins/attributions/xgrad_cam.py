"""XGrad-CAM: channels weighted by their gradient where they are active."""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32

__all__ = ["XGradCAM"]


class XGradCAM(Attribution):
    """M[s] = ReLU(sum_c a_c F[s, c]), with a_c = sum_s G[s, c] F[s, c] / (sum_s F[s, c] + epsilon).

    The mean gradient of a channel, weighted by its activations instead of evenly. The formula was made for channels
    behind a ReLU: where activations of both signs cancel, the weight of a channel grows without bound.

    Args:
        epsilon: keeps the fraction finite where a channel is zero everywhere.

    Source: Fu et al., "Axiom-based Grad-CAM", BMVC 2020, equation 8.
    """

    def __init__(self, *, epsilon: float = 1e-7) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        pooled = einsum(at_least_float32(gradients), features, "b n c, b n c -> b c")
        weights = pooled / (features.sum(dim=1) + self.epsilon)
        return einsum(features, weights, "b n c, b c -> b n").relu()
