"""What an attribution is: one raw number per image token, from probed tensors or from the model itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["Attribution", "ModelAttribution"]


class Attribution(nn.Module, ABC):
    """One formula that turns activations and gradients into evidence, e.g. Grad-CAM.

    The engine replays a denoising step, differentiates one scalar per reading with respect to the output of
    the probed module, and hands over both tensors at the image tokens of all selected views, in sequence
    order, without newline tokens. It knows nothing about grids, so neither does an attribution; whatever
    is smoothed, gated or normalised on the grid is a `Refiner`'s business, and comes later.

    Subclasses take their parameters as keyword arguments of `__init__` (a method preset gives them by name)
    and implement `forward` as a pure function: no randomness, nothing written into the inputs, any device,
    memory layout and floating dtype, no reading looking at another one, so that a reading gets the same evidence
    alone and in a batch. The order of the tokens means nothing: where they are permuted, their evidence is
    permuted alike. Whatever it keeps lies in attributes, buffers and parameters, so that a copy does the same.

    Example:
        >>> import torch
        >>> class GradientNorm(Attribution):
        ...     def forward(self, activations, gradients):
        ...         return gradients.norm(dim=-1)
        >>> GradientNorm()(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).shape
        torch.Size([1, 2])
    """

    @abstractmethod
    def forward(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Attribute each reading's scalar to the image tokens.

        Args:
            activations: [B, N, C] output of the probed module at the N image tokens, for B readings (a
                reading is one target in one replayed state). Readings of the same state may share memory.
                B may be 0, and N may be 1.
            gradients: [B, N, C] derivative of each reading's scalar with respect to `activations`; it may be
                zero everywhere.

        Returns:
            [B, N] finite raw evidence per image token, >= 0, larger meaning more, in no particular unit:
            the engine normalises each map. Device and dtype are those of the inputs, and the dtype is float32
            where they are half precision, because sums over thousands of channels do not fit there.
        """


class ModelAttribution(nn.Module, ABC):
    """An attribution that asks the model itself, e.g. by covering parts of the picture.

    For whatever cannot be computed from the activations and gradients of one layer. It is handed the run, with all
    readings of all words at once, and does its own forward passes. It is registered, named in a method, and
    parametrised like any `Attribution`; what comes after it (picture grid, normalisation, refiners) is the same.

    The model is frozen and in evaluation mode, and must be left as it is: hooks that are set are removed again.
    Grad mode is off; who needs gradients switches it on. Nothing is random but by a seed among the parameters.

    Example:
        >>> import torch
        >>> class Everywhere(ModelAttribution):
        ...     def forward(self, replays):
        ...         return torch.ones(len(replays.readings), len(replays.positions))
    """

    @abstractmethod
    def forward(self, replays: Replays) -> Tensor:
        """Attribute each reading to the image tokens.

        Args:
            replays: the run: prompt, R >= 1 readings (a reading is one target in one replayed state), image tokens,
                and what the model says to them.

        Returns:
            [R, N] finite raw evidence per reading and image token, >= 0, larger meaning more, floating-point. Each
            map is normalised by the engine.
        """
