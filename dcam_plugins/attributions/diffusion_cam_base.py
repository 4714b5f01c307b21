"""The base map of the released Diffusion-CAM code, which is not the one of its paper."""

from __future__ import annotations

from einops import rearrange, reduce
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32

__all__ = ["DiffusionCAMBase"]


class DiffusionCAMBase(Attribution):
    """M[s] = (1/C) sum_c ReLU(a_c F[s, c]), with a_c = mean_s ReLU(G[s, c]).

    It differs from `GradCAM` twice: negative gradients are dropped before the mean over the picture, and the
    ReLU comes before the sum over channels, so that no channel can speak against a token. It is meant for
    comparison with released numbers, in the preset `diffusion-cam-reference`.

    Args:
        gate_gradients: drop negative gradients. False gives the base map of the release's own Grad-CAM
            baseline, which pools the signed gradient but keeps the ReLU per channel.

    Source: Diffusion-CAM, commit 6423d377; specification of the method, section 1 (defect D5) and 10.1.
    """

    def __init__(self, *, gate_gradients: bool = True) -> None:
        super().__init__()
        self.gate_gradients = gate_gradients

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        slopes = at_least_float32(gradients)
        if self.gate_gradients:
            slopes = slopes.relu()
        weights = rearrange(slopes.mean(dim=1), "b c -> b 1 c")
        return reduce((weights * at_least_float32(activations)).relu(), "b n c -> b n", "mean")
