"""Grad-CAM: channels weighted by their mean gradient."""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["GradCAM"]


class GradCAM(Attribution):
    """M[s] = ReLU(sum_c a_c F[s, c]), with a_c = mean_s G[s, c].

    F are the activations, G the gradients, s an image token, c a channel.

    Args:
        centre: use the activations without their mean over the image tokens. It shifts the map by a
            constant before the ReLU, so that about the lower half of it becomes zero.
        gate_gradients: drop negative gradients before the mean, as LLaVA-CAM does.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2; the base map of Diffusion-CAM
    (arXiv 2604.11005) as its paper states it.
    """

    def __init__(self, *, centre: bool = False, gate_gradients: bool = False) -> None:
        super().__init__()
        self.centre, self.gate_gradients = centre, gate_gradients

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        if self.centre:
            features = centred(features)
        slopes = at_least_float32(gradients)
        if self.gate_gradients:
            slopes = slopes.relu()
        return einsum(features, slopes.mean(dim=1), "b n c, b c -> b n").relu()
