"""Pictures to pixels with PIL and numpy alone: resize, pad, cut, normalise.

PIL's bicubic filter is what the families were trained with; other libraries' differ in the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcam_core.errors import ConfigurationError

__all__ = ["cut_tiles", "pad_to_square", "paste", "processed", "resize", "to_pixels"]

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


def processed(crops: Sequence[Image.Image], processor: Any, side: int) -> Tensor:
    """Normalises crops by an image processor that the user brings.

    Args:
        crops: squares of S pixels.
        processor: an object with transformers' `preprocess(images, return_tensors="pt")["pixel_values"]`.
        side: S in pixels, what the tower reads.

    Returns:
        [crops, 3, S, S].

    Raises:
        ConfigurationError: the processor makes another shape.
    """
    values = processor.preprocess(list(crops), return_tensors="pt")["pixel_values"]
    pixels = torch.stack([torch.as_tensor(crop) for crop in values])
    expected = (len(crops), 3, side, side)
    if tuple(pixels.shape) != expected:
        raise ConfigurationError(
            f"the image processor makes {list(pixels.shape)} of {len(crops)} crops, the tower reads "
            f"{list(expected)}: give the processor that belongs to the model, or none"
        )
    return pixels
