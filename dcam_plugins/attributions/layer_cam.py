"""LayerCAM: activation times positive gradient, token by token."""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32

__all__ = ["LayerCAM"]


class LayerCAM(Attribution):
    """M[s] = ReLU(sum_c ReLU(G[s, c]) F[s, c]).

    Source: Jiang et al., "LayerCAM: Exploring hierarchical class activation maps for localization",
    IEEE TIP 2021, equations 6 and 7.
    """

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        weights = at_least_float32(gradients).relu()
        return einsum(weights, at_least_float32(activations), "b n c, b n c -> b n").relu()
