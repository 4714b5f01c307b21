"""Any-resolution geometry: which canvas a picture is laid on, and what each grid token shows of it.

A picture is resized onto the best of a list of canvases, the canvas is cut into square tiles, every
tile becomes a square of tokens, and the tokens of all tiles are laid side by side again. Rows or
columns that show only padding are cut away, and a grid that is too large is resampled. Source: LLaDA-V
spec, sections 3, 5 and 5.1; LaViDa's spec, section 6, is the same without resampling.

Coordinates: sizes are (width, height) in pixels, token grids (rows, columns).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcam_core.errors import PictureError

__all__ = ["Crop", "TileGrid", "best_canvas", "rectangles"]

Size = tuple[int, int]

RESAMPLE_ABOVE = 1.1
"""A grid is left as it is until its side exceeds the wanted one by this factor (LLaVA's threshold)."""


@dataclass(frozen=True)
class Crop:
    """One square picture that the tower reads, and the square of tokens that it becomes.

    Attributes:
        side: side S of the crop in pixels.
        seen: the tower sees the pixels 0 .. seen-1 of each axis; the strip up to `side` is lost when the
            patch size does not divide the crop.
        cells: tokens per side that the language model gets of it: one per patch, or fewer after pooling.
    """

    side: int
    seen: int
    cells: int

    def starts(self, tokens: Tensor) -> Tensor:
        """Canvas pixel at which a cell that begins at this token coordinate begins."""
        return self._pixels(tokens, torch.floor(tokens / self.cells))

    def ends(self, tokens: Tensor) -> Tensor:
        """Canvas pixel at which a cell that ends at this token coordinate ends.

        At a tile border this differs from `starts`: the unseen strip lies between.
        """
        return self._pixels(tokens, torch.ceil(tokens / self.cells) - 1)

    def _pixels(self, tokens: Tensor, tile: Tensor) -> Tensor:
        return self.side * tile + (tokens - self.cells * tile) * self.seen / self.cells


def best_canvas(size: Size, canvases: Iterable[Size]) -> Size:
    """The canvas that keeps most of the picture's pixels, and of those the one that wastes least.

    Args:
        size: (width, height) of the picture.
        canvases: (width, height) of every canvas on offer; the first wins a tie.
    """
    width, height = size

    def merit(canvas: Size) -> Size:
        scale = min(canvas[0] / width, canvas[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -(canvas[0] * canvas[1] - effective)

    return max(canvases, key=merit)


def rectangles(x0: Tensor, x1: Tensor, y0: Tensor, y1: Tensor, size: Size) -> Tensor:
    """Rectangles of a grid of cells, clipped to the picture.

    Args:
        x0: [columns] left edges in picture pixels.
        x1: [columns] right edges.
        y0: [rows] upper edges.
        y1: [rows] lower edges.
        size: (width, height) of the picture.

    Returns:
        [rows, columns, 4] float64, x0, y0, x1, y1. A cell that shows only padding has no area.
    """
    width, height = size
    shape = (len(y0), len(x0))
    return torch.stack(
        [
            x0.clamp(0, width)[None, :].expand(shape),
            y0.clamp(0, height)[:, None].expand(shape),
            x1.clamp(0, width)[None, :].expand(shape),
            y1.clamp(0, height)[:, None].expand(shape),
        ],
        dim=-1,
    )


@dataclass(frozen=True)
class TileGrid:
    """How one picture becomes a grid of tokens by way of tiles.

    Attributes:
        size: (width, height) of the picture.
        crop: geometry of one tile.
        canvas: (width, height) of the chosen canvas.
        resized: (width, height) of the picture on the canvas, aspect ratio kept.
        offset: (x, y) at which it is pasted.
        trimmed: rows cut away at the top (as many at the bottom), and columns at the left.
        kept: (rows, columns) of tokens that remain.
        grid: (rows, columns) after resampling; equal to `kept` when the grid was small enough.
    """

    size: Size
    crop: Crop
    canvas: Size
    resized: Size
    offset: Size
    trimmed: tuple[int, int]
    kept: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def plan(cls, size: Size, crop: Crop, canvases: Iterable[Size], max_tiles: int | None) -> Self:
        """Works the geometry out from the size of the picture alone.

        Args:
            size: (width, height) of the picture.
            crop: geometry of one tile.
            canvases: (width, height) of every canvas on offer, multiples of the tile's side.
            max_tiles: a grid of clearly more tokens than this many tiles have is resampled to that many;
                None: it never is.

        Raises:
            PictureError: the picture is so narrow that no row or column of tokens remains.
        """
        canvas = best_canvas(size, canvases)
        resized = _fit(size, canvas)
        offset = (canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2
        full = canvas[1] // crop.side * crop.cells, canvas[0] // crop.side * crop.cells
        trimmed = _padding(size, full)
        kept = full[0] - 2 * trimmed[0], full[1] - 2 * trimmed[1]
        grid = kept if max_tiles is None else _limited(kept, crop.cells, max_tiles)
        if min(grid) < 1:
            raise PictureError(
                f"a picture of {size[0]}x{size[1]} pixels is too narrow: no row of image tokens shows it; "
                "crop or pad it to a less extreme shape"
            )
        return cls(size, crop, canvas, resized, offset, trimmed, kept, grid)

    @property
    def tiles(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        return self.canvas[1] // self.crop.side, self.canvas[0] // self.crop.side

    def merge(self, tokens: Tensor) -> Tensor:
        """Lays the tokens of all tiles side by side, cuts padding away and resamples.

        Args:
            tokens: [tiles, cells * cells, D], tiles and tokens in row-major order.

        Returns:
            [rows, columns, D] of `grid`.
        """
        full = rearrange(
            tokens,
            "(tile_row tile_column) (row column) d -> (tile_row row) (tile_column column) d",
            tile_row=self.tiles[0],
            row=self.crop.cells,
        )
        (top, left), (rows, columns) = self.trimmed, self.kept
        kept = full[top : top + rows, left : left + columns]
        if self.grid == self.kept:
            return kept
        # Bilinear without antialiasing, as published: above a factor of 2 some tokens are not read at all.
        planes = rearrange(kept, "row column d -> 1 d row column")
        resampled = F.interpolate(planes, size=self.grid, mode="bilinear", align_corners=False)
        return rearrange(resampled, "1 d row column -> row column d")

    def rectangles(self) -> Tensor:
        """The area of the original picture that each token of the grid shows.

        For a resampled grid this is the nominal cell; the token itself is a blend of the two by two
        source tokens around the cell's centre.

        Returns:
            [rows, columns, 4] float64, x0, y0, x1, y1 in pixels of the picture.
        """
        spans = []
        for axis, picture_axis in ((1, 0), (0, 1)):  # columns run along x, rows along y
            count = self.grid[axis]
            edges = (
                torch.arange(count + 1, dtype=torch.float64) * self.kept[axis] / count + self.trimmed[axis]
            )
            scale = self.size[picture_axis] / self.resized[picture_axis]
            offset = self.offset[picture_axis]
            spans += [
                (self.crop.starts(edges[:-1]) - offset) * scale,
                (self.crop.ends(edges[1:]) - offset) * scale,
            ]
        x0, x1, y0, y1 = spans
        return rectangles(x0, x1, y0, y1, self.size)


def _fit(size: Size, canvas: Size) -> Size:
    """Largest (width, height) of this aspect ratio on the canvas; pixels are rounded up."""
    scale_x, scale_y = canvas[0] / size[0], canvas[1] / size[1]
    if scale_x < scale_y:
        return canvas[0], min(math.ceil(size[1] * scale_x), canvas[1])
    return min(math.ceil(size[0] * scale_y), canvas[0]), canvas[1]


def _padding(size: Size, full: tuple[int, int]) -> tuple[int, int]:
    """Rows (or columns) of padding tokens on each side.

    Tokens are rounded down where `_fit` rounds pixels up, so a thin strip of padding may survive; the
    order of the float operations is upstream's and decides some of the cases.
    """
    (width, height), (rows, columns) = size, full
    if width / height > columns / rows:
        return (rows - int(height * (columns / width))) // 2, 0
    return 0, (columns - int(width * (rows / height))) // 2


def _limited(kept: tuple[int, int], cells: int, max_tiles: int) -> tuple[int, int]:
    rows, columns = kept
    ratio = math.sqrt(rows * columns / (max_tiles * cells**2))
    if ratio <= RESAMPLE_ABOVE:
        return kept
    return int(rows // ratio), int(columns // ratio)
