"""How LLaVA-style families turn a picture into crops, and the crops' tokens into a stretch of the prompt.

`AnyResolutionLayout`: an overview that squashes the picture to a square ("base"), then tiles that keep
its aspect ratio ("grid"), each row of the grid ended by a newline token. `PaddedLayout` and
`SquashedLayout`: the picture as one square, one newline token at the very end. Sources: LLaDA-V spec,
sections 3 and 5; LaViDa spec, sections 5 and 6, where every crop's tokens are pooled first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from PIL import Image
from torch import Tensor

from dcam_adapters.common.anyres import Crop, TileGrid, rectangles
from dcam_adapters.common.pictures import cut_tiles, pad_to_square, paste, resize
from dcam_core.inputs import ImageView

__all__ = ["AnyResolutionLayout", "PaddedLayout", "PictureLayout", "SquashedLayout"]

BLACK = (0, 0, 0)
GREY = (127, 127, 127)


class PictureLayout(ABC):
    """One picture's way into the prompt.

    Args:
        size: (width, height) of the picture in pixels.
        crop: geometry of what the tower reads, and of the tokens that the language model gets of it.
    """

    def __init__(self, size: tuple[int, int], crop: Crop) -> None:
        self.size = size
        self.crop = crop

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of image tokens, newline tokens included."""

    @abstractmethod
    def crops(self, picture: Image.Image) -> list[Image.Image]:
        """The squares of S pixels that the tower reads, in the order of the tokens."""

    @abstractmethod
    def merge(self, tokens: Tensor, newline: Tensor) -> Tensor:
        """Tokens of all crops and the newline vector, in the order of the prompt.

        Args:
            tokens: [crops, cells * cells, D], the language model's tokens of every crop, row-major.
            newline: [D].

        Returns:
            [length, D].
        """

    @abstractmethod
    def views(self, start: int, picture: int = 0) -> tuple[ImageView, ...]:
        """The grids of image tokens.

        Args:
            start: position in the prompt of the first of them.
            picture: which picture of the prompt they show.
        """

    def _base_view(self, start: int, picture: int, x: Tensor, y: Tensor) -> ImageView:
        """The tokens of the first crop, with the edges [cells + 1] of their columns and rows."""
        cells = self.crop.cells
        positions = start + torch.arange(cells * cells).view(cells, cells)
        return ImageView("base", positions, rectangles(x[:-1], x[1:], y[:-1], y[1:], self.size), picture)

    def _cell_edges(self) -> Tensor:
        """[cells + 1] float64, edges of the tokens of one crop as a share of its side."""
        edges = torch.arange(self.crop.cells + 1, dtype=torch.float64) * self.crop.seen / self.crop.cells
        return edges / self.crop.side

    def _squashed(self, start: int, picture: int) -> ImageView:
        """The base view of a crop that shows the whole picture, aspect ratio not kept."""
        edges, (width, height) = self._cell_edges(), self.size
        return self._base_view(start, picture, edges * width, edges * height)


class AnyResolutionLayout(PictureLayout):
    """Base view and grid view, `image_aspect_ratio` "anyres" or "anyres_max_N" with `spatial_unpad`.

    Args:
        size: (width, height) of the picture.
        crop: geometry of one crop.
        canvases: (width, height) of every canvas on offer.
        max_tiles: N, the grid view holds about N crops' worth of tokens at most; None: any number.
    """

    def __init__(
        self,
        size: tuple[int, int],
        crop: Crop,
        canvases: tuple[tuple[int, int], ...],
        max_tiles: int | None = None,
    ) -> None:
        super().__init__(size, crop)
        self.tiles = TileGrid.plan(size, crop, canvases, max_tiles)

    @property
    def length(self) -> int:
        """The base tokens, and rows of grid tokens with a newline each."""
        rows, columns = self.tiles.grid
        return self.crop.cells**2 + rows * (columns + 1)

    def crops(self, picture: Image.Image) -> list[Image.Image]:
        """The base view, which does not keep the aspect ratio, then the tiles row by row."""
        base = resize(picture, (self.crop.side, self.crop.side))
        canvas = paste(resize(picture, self.tiles.resized), self.tiles.canvas, self.tiles.offset, BLACK)
        return [base, *cut_tiles(canvas, self.crop.side)]

    def merge(self, tokens: Tensor, newline: Tensor) -> Tensor:
        """Base tokens without a newline, then the grid with a newline at the end of every row."""
        grid = self.tiles.merge(tokens[1:])
        # Appended after resampling, so that the vector stays exactly the learned one.
        ends = newline.to(grid.dtype).expand(len(grid), 1, -1)
        return torch.cat([tokens[0], torch.cat([grid, ends], dim=1).flatten(0, 1)])

    def views(self, start: int, picture: int = 0) -> tuple[ImageView, ...]:
        """The overview "base" and the tiles "grid"."""
        rows, columns = self.tiles.grid
        after_base = start + self.crop.cells**2
        positions = after_base + torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :-1]
        return (
            self._squashed(start, picture),
            ImageView("grid", positions, self.tiles.rectangles(), picture),
        )


class _SingleCrop(PictureLayout):
    """One square, and one newline."""

    @property
    def length(self) -> int:
        """The crop's tokens and one newline."""
        return self.crop.cells**2 + 1

    def merge(self, tokens: Tensor, newline: Tensor) -> Tensor:
        """The crop's tokens, then one newline."""
        return torch.cat([tokens[0], newline.to(tokens.dtype)[None]])


class PaddedLayout(_SingleCrop):
    """The whole picture on a grey square, `image_aspect_ratio` "pad"."""

    def crops(self, picture: Image.Image) -> list[Image.Image]:
        """One crop."""
        square, _ = pad_to_square(picture, GREY)
        return [resize(square, (self.crop.side, self.crop.side))]

    def views(self, start: int, picture: int = 0) -> tuple[ImageView, ...]:
        """One view, "base"; tokens on the grey border have rectangles without area."""
        (width, height), side = self.size, max(self.size)
        edges = self._cell_edges() * side
        return (self._base_view(start, picture, edges - (side - width) // 2, edges - (side - height) // 2),)


class SquashedLayout(_SingleCrop):
    """The whole picture as a square, aspect ratio not kept: any other `image_aspect_ratio`."""

    def crops(self, picture: Image.Image) -> list[Image.Image]:
        """One crop."""
        return [resize(picture, (self.crop.side, self.crop.side))]

    def views(self, start: int, picture: int = 0) -> tuple[ImageView, ...]:
        """One view, "base"."""
        return (self._squashed(start, picture),)
