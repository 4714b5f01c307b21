"""Pictures changed where a map says: in which order cells go, and what a picture looks like without some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageFilter
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.probing.baseline_pictures import BASELINES

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "blurred",
    "cells_over_picture",
    "composed",
    "first_cells",
    "highest_first",
    "mean_coloured",
    "noisy",
    "picture_of",
    "pixels_of",
    "random_maps",
]


def pixels_of(picture: Image) -> Tensor:
    """[3, H, W] float64 in [0, 1]: an RGB picture as numbers."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).double() / 255


def picture_of(pixels: Tensor) -> Image:
    """The RGB picture of [3, H, W] floating values, which are clamped to [0, 1] and rounded to 8 bits."""
    bits = (255 * pixels.clamp(0, 1)).round().to(torch.uint8)
    return PillowImage.fromarray(np.ascontiguousarray(bits.permute(1, 2, 0).cpu().numpy()))


def blurred(picture: Image, sigma: float = 10.0) -> Image:
    """The picture out of focus, by a Gaussian of standard deviation `sigma` in pixels: a baseline of deletion."""
    return picture.filter(ImageFilter.GaussianBlur(sigma))


def mean_coloured(picture: Image) -> Image:
    """The picture's mean colour in place of the picture: the other baseline of deletion."""
    return BASELINES["mean-colour"](picture)


def noisy(picture: Image, std: float, seed: int) -> Image:
    """The picture under Gaussian noise.

    Args:
        picture: RGB.
        std: standard deviation, as a share of the range from black to white.
        seed: the same seed, the same noise; no global random state is touched.
    """
    pixels = pixels_of(picture)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(pixels.shape, dtype=pixels.dtype, generator=generator)
    return picture_of(pixels + std * noise)


def random_maps(count: int, grid: tuple[int, int], seed: int) -> Tensor:
    """[count, rows, columns] float64 in [0, 1): maps that know nothing, to hold others against."""
    return torch.rand(count, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def highest_first(map_: Tensor) -> Tensor:
    """The cells of a map in falling order.

    Args:
        map_: [h, w], any floating dtype.

    Returns:
        [h * w] int64, indices of cells in row-major order; equals stay in row-major order.
    """
    return map_.flatten().argsort(descending=True, stable=True)


def cells_over_picture(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels belong to some cells of a grid that divides the picture evenly.

    Args:
        cells: [h, w] bool.
        size: (width, height) in pixels.

    Returns:
        [height, width] bool; a pixel belongs to the cell in which its centre lies.
    """
    rows, columns = cells.shape
    width, height = size
    row = ((torch.arange(height, device=cells.device) + 0.5) * rows / height).long()
    column = ((torch.arange(width, device=cells.device) + 0.5) * columns / width).long()
    return cells[row][:, column]


def first_cells(order: Tensor, count: int, grid: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The pixels of the first cells of an order.

    Args:
        order: [h * w] int64 on the CPU, cells in raster order, by number.
        count: how many of them.
        grid: (h, w).
        size: (width, height) of the picture in pixels.

    Returns:
        [height, width] bool.
    """
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[:count]] = True
    return cells_over_picture(chosen.view(grid), size)


def composed(picture: Image, baseline: Image, shown: Tensor) -> Image:
    """The picture where it is shown, and a baseline elsewhere.

    Args:
        picture: RGB.
        baseline: RGB, of the same size.
        shown: [height, width] bool.

    Raises:
        UsageError: sizes differ.
    """
    if baseline.size != picture.size:
        raise UsageError(
            f"the baseline is {baseline.size} and the picture {picture.size}: make it of one size"
        )
    mask = PillowImage.fromarray(shown.cpu().numpy())
    return PillowImage.composite(picture, baseline, mask)
