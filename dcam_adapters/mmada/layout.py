"""How MMaDA cuts one square out of a picture, and where its tokens lie in the picture (spec, section 4).

One square of R x R pixels becomes a grid of codes. There is no tiling and no padding: what lies outside
the square has no token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from PIL import Image

from dcam_adapters.common.anyres import rectangles
from dcam_adapters.common.pictures import resize
from dcam_core.errors import PictureError
from dcam_core.inputs import ImageView

__all__ = ["IMAGE_START", "PictureLayout"]

Size = tuple[int, int]

IMAGE_START = 2
"""Position of the first image token in every prompt, after the task's token and the start of the image."""

LONGEST = 64
"""Sides of the square that a resized picture may be long. Of a longer one next to nothing would be seen,
while resizing it takes gigabytes."""


@dataclass(frozen=True)
class PictureLayout:
    """One picture's way to the square that the image tokenizer reads.

    Attributes:
        size: (width, height) of the picture in pixels.
        side: side R of the square in pixels.
        cells: codes per side of the square.
        resized: (width, height) of the picture after resizing.
        offset: (x, y) at which the square is cut out of the resized picture.
    """

    size: Size
    side: int
    cells: int
    resized: Size
    offset: Size

    @classmethod
    def centre_crop(cls, size: Size, side: int, cells: int) -> Self:
        """The short side becomes R and the middle is kept: the family's usual way.

        Args:
            size: (width, height) of the picture in pixels.
            side: R in pixels.
            cells: codes per side.

        Raises:
            PictureError: the picture is too narrow.
        """
        width, height = size
        # Rounding as in the family's own code: lengths are truncated, offsets go to the even neighbour.
        resized = (
            (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        )
        if max(resized) > LONGEST * side:
            raise PictureError(
                f"a picture of {width}x{height} pixels is too narrow: the model would see less than a "
                f"{LONGEST}th of it, the square in its middle; crop it to a less extreme shape"
            )
        offset = round((resized[0] - side) / 2), round((resized[1] - side) / 2)
        return cls(size, side, cells, resized, offset)

    @classmethod
    def squash(cls, size: Size, side: int, cells: int) -> Self:
        """The whole picture, without keeping its aspect ratio: for charts, documents and diagrams.

        Args:
            size: (width, height) of the picture in pixels.
            side: R in pixels.
            cells: codes per side.
        """
        return cls(size, side, cells, (side, side), (0, 0))

    @property
    def length(self) -> int:
        """Number of image tokens."""
        return self.cells**2

    def square(self, picture: Image.Image) -> Image.Image:
        """The R x R pixels that the image tokenizer reads."""
        left, top = self.offset
        return resize(picture, self.resized).crop((left, top, left + self.side, top + self.side))

    def views(self) -> tuple[ImageView, ...]:
        """The one view, "base"; what was cut off has no token.

        A rectangle is a code's nominal cell, the one that the tokenizer's decoder paints for it; its encoder
        sees more than that.
        """
        steps = torch.arange(self.cells + 1, dtype=torch.float64) * self.side / self.cells
        x, y = (
            (offset + steps) * extent / resized
            for offset, extent, resized in zip(self.offset, self.size, self.resized, strict=True)
        )
        positions = IMAGE_START + torch.arange(self.length).view(self.cells, self.cells)
        return (ImageView("base", positions, rectangles(x[:-1], x[1:], y[:-1], y[1:], self.size)),)
