"""What an attribution is: probed activations and gradients in, one raw number per image token out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["Attribution"]


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
