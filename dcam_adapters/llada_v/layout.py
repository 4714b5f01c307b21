"""How LLaDA-V turns a picture into crops, and the crops' tokens into a stretch of the prompt (spec, 3 and 5).

`AnyResolutionLayout`: an overview that squashes the picture to a square ("base"), then tiles that keep
its aspect ratio ("grid"), each row of the grid ended by a newline token. `SingleCropLayout`: the
picture padded to a square, one newline token at the very end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from PIL import Image
from torch import Tensor

from dcam_adapters.common.anyres import Crop, TileGrid, rectangles
from dcam_adapters.common.pictures import cut_tiles, pad_to_square, paste, resize
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_core.inputs import ImageView

__all__ = ["AnyResolutionLayout", "PictureLayout", "SingleCropLayout", "picture_layout"]

BLACK = (0, 0, 0)
GREY = (127, 127, 127)


class PictureLayout(ABC):
    """One picture's way into the prompt.

    Attributes:
        size: (width, height) of the picture in pixels.
        crop: geometry of what the tower reads.
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
        """Projected tokens of all crops and the newline vector, in the order of the prompt.

        Args:
            tokens: [crops, P * P, D].
            newline: [D].

        Returns:
            [length, D].
        """

    @abstractmethod
    def views(self, start: int) -> tuple[ImageView, ...]:
        """The grids of image tokens when the first of them is at this position of the prompt."""

    def _base_positions(self, start: int) -> Tensor:
        cells = self.crop.cells
        return start + torch.arange(cells * cells).view(cells, cells)

    def _cell_edges(self) -> Tensor:
        """[cells + 1] float64, edges of the tokens of one crop in its own pixels."""
        return torch.arange(self.crop.cells + 1, dtype=torch.float64) * self.crop.seen / self.crop.cells


class AnyResolutionLayout(PictureLayout):
    """Base view and grid view, `anyres_max_N` with `spatial_unpad`.

    Args:
        size: (width, height) of the picture.
        crop: geometry of what the tower reads.
        canvases: (width, height) of every canvas on offer.
        max_tiles: N, the grid view holds about N crops' worth of tokens at most.
    """

    def __init__(
        self, size: tuple[int, int], crop: Crop, canvases: tuple[tuple[int, int], ...], max_tiles: int
    ) -> None:
        super().__init__(size, crop)
        self.tiles = TileGrid.plan(size, crop, canvases, max_tiles)

    @property
    def length(self) -> int:
        """P * P base tokens, and rows of grid tokens with a newline each."""
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

    def views(self, start: int) -> tuple[ImageView, ...]:
        """The overview "base" and the tiles "grid"."""
        width, height = self.size
        edges = self._cell_edges() / self.crop.side
        x, y = edges * width, edges * height
        base = rectangles(x[:-1], x[1:], y[:-1], y[1:], self.size)
        rows, columns = self.tiles.grid
        after_base = start + self.crop.cells**2
        positions = after_base + torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :-1]
        return (
            ImageView("base", self._base_positions(start), base),
            ImageView("grid", positions, self.tiles.rectangles()),
        )


class SingleCropLayout(PictureLayout):
    """The whole picture on a grey square, `image_aspect_ratio` "pad"."""

    @property
    def length(self) -> int:
        """P * P tokens and one newline."""
        return self.crop.cells**2 + 1

    def crops(self, picture: Image.Image) -> list[Image.Image]:
        """One crop."""
        square, _ = pad_to_square(picture, GREY)
        return [resize(square, (self.crop.side, self.crop.side))]

    def merge(self, tokens: Tensor, newline: Tensor) -> Tensor:
        """The crop's tokens, then one newline."""
        return torch.cat([tokens[0], newline.to(tokens.dtype)[None]])

    def views(self, start: int) -> tuple[ImageView, ...]:
        """One view, "base"; tokens on the grey border have rectangles without area."""
        width, height = self.size
        side = max(self.size)
        edges = self._cell_edges() * side / self.crop.side
        x, y = edges - (side - width) // 2, edges - (side - height) // 2
        return (
            ImageView(
                "base",
                self._base_positions(start),
                rectangles(x[:-1], x[1:], y[:-1], y[1:], self.size),
            ),
        )


def picture_layout(config: LLaDAVConfig, size: tuple[int, int]) -> PictureLayout:
    """The layout that a checkpoint's `image_aspect_ratio` asks for.

    Args:
        config: the checkpoint's configuration.
        size: (width, height) of the picture in pixels.
    """
    vision = config.vision
    cells = vision.patches_per_side
    crop = Crop(side=vision.image_size, seen=cells * vision.patch_size, cells=cells)
    if config.image_aspect_ratio == "pad":
        return SingleCropLayout(size, crop)
    return AnyResolutionLayout(size, crop, config.canvases, config.max_grid_tiles)
