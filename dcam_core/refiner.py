"""What a refiner is: maps in, better maps out, with what a map may need to know about the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["Refiner", "RefinerContext"]


@dataclass(frozen=True, eq=False)
class RefinerContext:
    """What the refiners of one batch of maps may know about the run that made them.

    Attributes:
        raw: [B, H, W] the maps before any refiner, min-max normalised to [0, 1].
        denoising_steps: number of steps that the sampler took for the answer.
        image_size: side of the square picture that the vision tower reads, in pixels.
        answer_ids: token ids of the answer up to the stop sequence, which is not among them.
        padding_ids: token ids of the answer region behind the answer: stop sequence, end-of-text, padding.
            Only who wants to count like the released code needs them; empty where they are not known.
        picture: [3, height, width] float32 in [0, 1], the picture that the maps lie over, RGB, in its own size; None
            where nobody gave it.
    """

    raw: Tensor
    denoising_steps: int
    image_size: int
    answer_ids: tuple[int, ...]
    padding_ids: tuple[int, ...] = ()
    picture: Tensor | None = None


class Refiner(nn.Module, ABC):
    """One step that improves a batch of maps, e.g. denoising or attenuating the background.

    A method preset lists its refiners in order; leaving one out is the ablation. Subclasses take their
    parameters as keyword arguments of `__init__` (the preset gives them by name) and implement `forward`
    as a pure function: batched without a loop over maps or pixels, on any device, memory layout and floating
    dtype, without randomness, without writing into its inputs, and without any map looking at another one, so
    that a map comes out the same alone and in a batch. Whatever it keeps lies in attributes, buffers and
    parameters, so that a copy does the same.

    Example:
        >>> import torch
        >>> class Square(Refiner):
        ...     def forward(self, maps, context):
        ...         return maps.square()
        >>> maps = torch.tensor([[[0.0, 0.5, 1.0]]])
        >>> context = RefinerContext(raw=maps, denoising_steps=8, image_size=96, answer_ids=(4, 7))
        >>> Square()(maps, context)
        tensor([[[0.0000, 0.2500, 1.0000]]])

    Attributes:
        finer: whether the maps come out on a finer grid over the same picture than they came in: [B, H', W'] with
            H' >= H and W' >= W. Refiners behind it get `context.raw` stretched to that grid.
        range_only: whether all it does is to stretch the range of values of each map. Ablations keep such a refiner.
    """

    finer: ClassVar[bool] = False
    range_only: ClassVar[bool] = False

    @abstractmethod
    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine a batch of maps.

        Args:
            maps: [B, H, W] finite values in [0, 1] on the token grid of one picture; B may be 0, H and W may
                be 1. Neither 0 nor 1 need occur in a map, and a map may be the same everywhere.
            context: what is known about the run; `context.raw` has the shape of `maps`.

        Returns:
            [B, H, W] finite values in [0, 1], same dtype and device as `maps`; the grid is that of `maps` unless
            `finer`. A map that is zero everywhere stays so.
        """
