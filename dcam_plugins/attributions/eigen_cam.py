"""EigenCAM: the main direction in which image tokens differ, without any gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_plugins._numerics import at_least_float32, centred

__all__ = ["EigenCAM"]


class EigenCAM(Attribution):
    """M = ReLU(projection of the activations, centred over the tokens, on their first principal component).

    A principal component has no sign of its own: it is turned so that the value of the largest magnitude is positive.
    The gradients are not used. The map says what stands out in the picture, and is the same for every word
    that is read in the same state: a baseline that a method about *words* has to beat.

    Source: Muhammad and Yeasin, "Eigen-CAM", IJCNN 2020, with centred activations.
    """

    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute; shapes and dtypes as in `Attribution.forward`."""
        features = at_least_float32(activations)
        spread = centred(features)
        # There are fewer tokens than channels: the eigenvectors of the small matrix are the projections already, up
        # to their length, the square root of the eigenvalue.
        energies, directions = torch.linalg.eigh(spread @ spread.mT)
        energy = energies[:, -1].clamp_min(0)
        # Tokens that do not differ leave the round-off of the mean behind, which no map may be made of.
        roundoff = (4 * torch.finfo(features.dtype).eps) ** 2 * features.square().sum(dim=(1, 2))
        length = energy.sqrt().where(energy > roundoff, torch.zeros_like(energy))
        projection = directions[:, :, -1] * length[:, None]
        upside_down = -projection.amin(dim=1) > projection.amax(dim=1)
        return torch.where(upside_down[:, None], -projection, projection).relu()
