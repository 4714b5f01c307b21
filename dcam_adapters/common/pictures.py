"""Pictures to pixels with PIL and numpy alone: resize, pad, cut, normalise.

PIL's bicubic filter is what the families were trained with; other libraries' differ in the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["cut_tiles", "pad_to_square", "paste", "resize", "to_pixels"]

Size = tuple[int, int]


def resize(picture: Image.Image, size: Size) -> Image.Image:
    """Bicubic, antialiased; `size` is (width, height)."""
    return picture.resize(size, Image.Resampling.BICUBIC)


def paste(picture: Image.Image, canvas: Size, offset: Size, colour: tuple[int, int, int]) -> Image.Image:
    """Lays a picture on a canvas of one colour, its upper left corner at `offset` (x, y)."""
    out = Image.new("RGB", canvas, colour)
    out.paste(picture, offset)
    return out


def pad_to_square(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[Image.Image, Size]:
    """Centres a picture on a square of its longer side.

    Returns:
        The square, and the offset (x, y) of the picture on it.
    """
    side = max(picture.size)
    offset = (side - picture.width) // 2, (side - picture.height) // 2
    return paste(picture, (side, side), offset, colour), offset


def cut_tiles(canvas: Image.Image, side: int) -> list[Image.Image]:
    """Cuts a canvas into squares, row by row."""
    return [
        canvas.crop((left, top, left + side, top + side))
        for top in range(0, canvas.height, side)
        for left in range(0, canvas.width, side)
    ]


def to_pixels(crops: Sequence[Image.Image]) -> Tensor:
    """Normalises crops of one size from [0, 255] to [-1, 1].

    Returns:
        [crops, 3, height, width] float32.
    """
    values = np.stack([np.asarray(crop.convert("RGB")) for crop in crops])
    # Divided in float32, not multiplied by 1/255: upstream's processor to the last bit.
    scaled = (values.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()
