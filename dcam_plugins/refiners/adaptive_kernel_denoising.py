"""Adaptive Kernel Denoising (AKD): a rank-Gaussian filter whose size follows the run and the map."""

from __future__ import annotations

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32
from dcam_plugins.refiners.rank_gaussian import rank_gaussian_filter

__all__ = ["AdaptiveKernelDenoising", "adaptive_kernel_denoising", "adaptive_kernel_size"]

_SMALLEST, _LARGEST = 3, 11  # grid cells


def adaptive_kernel_size(spread: Tensor, denoising_steps: int, image_size: int, base_size: int = 3) -> Tensor:
    """Side of the denoising kernel for each map.

        k = base_size * min(denoising_steps / 16, 2) * min(5 spread, 2) * min(image_size / 512, 1.5)

    truncated, made odd by adding 1 if it is even, and limited to 3 ... 11: more denoising steps, a noisier
    map and a larger picture all ask for more smoothing.

    Args:
        spread: population standard deviation of each map, any shape.
        denoising_steps: number of sampler steps.
        image_size: side of the picture that the vision tower reads, in pixels.
        base_size: k when all factors are 1.

    Returns:
        int64, shape of `spread`: odd, 3 to 11 grid cells.

    Source: paper, figure of AKD; constants from the released code, specification section 3.
    """
    steps_factor = min(denoising_steps / 16, 2.0)
    size_factor = min(image_size / 512, 1.5)
    size = (base_size * steps_factor * (5 * spread).clamp_max(2.0) * size_factor).long()
    return (size + (size % 2 == 0)).clamp(_SMALLEST, _LARGEST)


def adaptive_kernel_denoising(
    maps: Tensor, denoising_steps: int, image_size: int, *, base_size: int = 3
) -> Tensor:
    """Filter each map with `rank_gaussian_filter` at its own `adaptive_kernel_size`.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.
        denoising_steps: number of sampler steps.
        image_size: side of the picture that the vision tower reads, in pixels.
        base_size: kernel size when all factors are 1.

    Returns:
        [B, H, W], same dtype.
    """
    spread = at_least_float32(maps).flatten(1).std(dim=1, correction=0)
    sizes = adaptive_kernel_size(spread, denoising_steps, image_size, base_size)
    denoised = torch.empty_like(maps)
    for size in range(_SMALLEST, _LARGEST + 1, 2):  # maps of one size are filtered together
        members = (sizes == size).nonzero().squeeze(1)
        if len(members) > 0:
            denoised = denoised.index_copy(0, members, rank_gaussian_filter(maps[members], size))
    return denoised


class AdaptiveKernelDenoising(Refiner):
    """`adaptive_kernel_denoising` with the steps and the picture size of the run.

    That is what the paper describes. The released code reads its step ratio of 0.5 as two steps and takes
    the rows of the token grid for pixels, so that its kernel is 3 whatever the map: give `denoising_steps=2`
    to get its numbers. Its jitter before the filter is left out: it is not seeded, and serves to dodge the
    0/0 that `rank_gaussian_filter` does not have.

    Args:
        denoising_steps: number of steps to assume; that of the run if None.
        image_size: side of the picture in pixels to assume; that of the vision tower if None.
        base_size: kernel size when all factors are 1, in grid cells.

    Raises:
        ConfigurationError: if a parameter is not positive.

    Source: paper, module AKD; specification of the method, section 3 (defects D11 to D14).
    """

    def __init__(
        self, *, denoising_steps: int | None = None, image_size: int | None = None, base_size: int = 3
    ) -> None:
        super().__init__()
        given = {"denoising_steps": denoising_steps, "image_size": image_size, "base_size": base_size}
        for name, value in given.items():
            if value is not None and value <= 0:
                raise ConfigurationError(
                    f"adaptive-kernel-denoising: {name} is {value}: give a number above 0"
                )
        self.denoising_steps = denoising_steps
        self.image_size = image_size
        self.base_size = base_size

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`."""
        steps = context.denoising_steps if self.denoising_steps is None else self.denoising_steps
        size = context.image_size if self.image_size is None else self.image_size
        return adaptive_kernel_denoising(maps, steps, size, base_size=self.base_size)
