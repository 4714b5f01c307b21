"""One picture of a prompt with the maps over it: grids, the same at the size of the picture, and peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dcam_core.errors import DcamError, UsageError

if TYPE_CHECKING:
    from dcam_core.results.words import ExplainedTarget

__all__ = ["PictureMaps", "choose_picture", "peak_cell", "stretch_map"]

_RANGE_TOLERANCE = 1e-5  # a map may leave [0, 1] by this much (rounding) and is clamped; beyond it is refused
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class PictureMaps:
    """A picture, and one map over it for every target.

    Attributes:
        picture: the picture, RGB.
        raw: `[T, H, W]` float32, maps on the picture grid before any refiner: not normalised. The grid covers
            the whole picture; cell (0, 0) is its upper left corner.
        maps: `[T, H', W']` float32 in [0, 1], the refined maps over the same picture; on the same grid, or on a
            finer one if a refiner makes it finer.
    """

    picture: Image.Image
    raw: Tensor
    maps: Tensor

    def heatmap(self, index: int) -> Tensor:
        """`[picture height, picture width]` float32 in [0, 1], bilinear between the centres of the cells."""
        return stretch_map(self.maps[index], self.picture.size)

    def peak(self, index: int) -> tuple[float, float] | None:
        """Centre (x, y) of the highest cell of a map in pixels of the picture; None for an empty map."""
        cell = peak_cell(self.maps[index])
        if cell is None:
            return None
        rows, columns = self.maps.shape[1:]
        return (cell[1] + 0.5) * self.picture.width / columns, (cell[0] + 0.5) * self.picture.height / rows

    def checked(self, targets: Sequence[ExplainedTarget], where: str) -> PictureMaps:
        """Copies that fit some targets.

        Args:
            targets: the T targets.
            where: begins every message; empty, or "picture 1: ".

        Raises:
            DcamError: raw maps and maps do not fit each other or the targets, are not finite, or the maps
                leave [0, 1].
        """
        raw, maps = (_checked(name, getattr(self, name), targets, where) for name in ("raw", "maps"))
        if any(fine < coarse for fine, coarse in zip(maps.shape, raw.shape, strict=True)):
            raise DcamError(
                f"{where}raw maps are {list(raw.shape)} but maps are {list(maps.shape)}: refined maps are "
                "as fine as the raw ones, or finer"
            )
        low, high = (maps.min().item(), maps.max().item()) if len(maps) else (0.0, 1.0)
        if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
            raise DcamError(
                f"{where}maps have values from {low:.6g} to {high:.6g}: the last refiner must leave [0, 1]"
            )
        return PictureMaps(self.picture.convert("RGB"), raw, maps.clamp(0.0, 1.0))


def choose_picture(parts: Sequence[_T], picture: int | None, wanted: str) -> _T:
    """The part of one picture.

    Args:
        parts: what there is, one per picture.
        picture: which, counted from 0 (negative: from the end); None: the only one.
        wanted: how to ask for it, for the message: "heatmap(..., picture=0)".

    Raises:
        UsageError: there is no such picture, or there are several and it is not said which.
    """
    if picture is None:
        if len(parts) > 1:
            raise UsageError(
                f"there are {len(parts)} pictures and it is not said which is meant: write {wanted}, counted "
                "from 0"
            )
        return parts[0]
    if not -len(parts) <= picture < len(parts):
        there = "only picture 0" if len(parts) == 1 else f"pictures 0 to {len(parts) - 1}"
        raise UsageError(f"there is no picture {picture}: there is {there}")
    return parts[picture]


def stretch_map(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a map over a picture.

    Args:
        grid: `[rows, columns]` floating, the map; its cells divide the picture evenly.
        size: width and height in pixels.

    Returns:
        `[height, width]` of the same dtype, bilinear, in [0, 1].
    """
    width, height = size
    stretched = F.interpolate(grid[None, None], size=(height, width), mode="bilinear", align_corners=False)
    return stretched[0, 0].clamp(0.0, 1.0)


def peak_cell(grid: Tensor) -> tuple[int, int] | None:
    """Give row and column of the first highest cell of `[rows, columns]`; None if none is above zero."""
    if not (grid > 0).any():
        return None
    row, column = divmod(int(grid.argmax()), grid.shape[1])
    return row, column


def _checked(name: str, maps: Tensor, targets: Sequence[ExplainedTarget], where: str) -> Tensor:
    """A copy on the CPU as float32, without a graph."""
    if maps.ndim != 3 or len(maps) != len(targets) or 0 in maps.shape[1:]:
        raise DcamError(
            f"{where}{name} has shape {list(maps.shape)}: it must be [targets, rows, columns] for "
            f"{len(targets)} targets, with at least one cell"
        )
    maps = maps.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
    for target, one in zip(targets, maps, strict=True):
        if not one.isfinite().all():
            raise DcamError(
                f"{where}{name} of target {target.word!r} holds NaN or infinity: no map can be made from it"
            )
    return maps
