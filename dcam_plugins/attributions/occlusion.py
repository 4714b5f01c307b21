"""Occlusion: cover a part of the picture, and see how much the score drops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from einops import einsum
from PIL import Image
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_core.errors import ConfigurationError
from dcam_core.probing.baseline_pictures import BASELINES

if TYPE_CHECKING:
    from dcam_core.inputs import Inputs
    from dcam_core.probing.picture_grid import PictureGrid
    from dcam_core.probing.replays import Replays

__all__ = ["Occlusion"]


class Occlusion(ModelAttribution):
    """Evidence of a grid cell: the mean drop of the score over all patches that cover it, where it is a drop.

    A patch of the picture's mean colour is laid on the picture, which is then read anew from its pixels, by the
    vision tower too. One replay per patch serves all words. Nothing is known of the model but its answers, so this is
    the yardstick for methods that look inside, and the most expensive of them.

    Args:
        patch: side of the square patch, in cells of the picture's token grid.
        stride: cells from one patch to the next; 1 moves it cell by cell, `patch` tiles the picture.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
    """

    def __init__(self, *, patch: int = 3, stride: int = 2) -> None:
        super().__init__()
        if not 1 <= stride <= patch:
            raise ConfigurationError(
                f"occlusion: patch is {patch} and stride {stride}: give a stride of at least 1, and no larger than "
                "the patch, so that every cell is covered"
            )
        self.patch, self.stride = patch, stride

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`.

        Raises:
            ConfigurationError: the caller has no pictures.
        """
        if not replays.pictures:
            raise ConfigurationError(
                "occlusion covers parts of the picture, and there is none: give explain_run its pictures"
            )
        (whole,) = replays.scores([replays.inputs])
        evidence = []
        for number, grid in enumerate(replays.grids):
            covers = self._covers(grid)
            covered = torch.stack(list(replays.scores(_covered(replays, number, covers))), dim=1)
            drops = whole[:, None] - covered
            # [R, K] drops by [K, rows, cols] covers: the mean over the patches that cover a cell.
            cells = einsum(drops, covers, "r k, k h w -> r h w") / covers.sum(dim=0)
            evidence.append(grid.read(cells.relu()))
        return torch.cat(evidence, dim=1)

    def _covers(self, grid: PictureGrid) -> Tensor:
        """[K, rows, cols] float32, 1 where a patch lies; the last of a row or column is moved inside."""
        covers = []
        for top in _starts(grid.rows, self.patch, self.stride):
            for left in _starts(grid.cols, self.patch, self.stride):
                cover = torch.zeros(grid.rows, grid.cols)
                cover[top : top + self.patch, left : left + self.patch] = 1
                covers.append(cover)
        return torch.stack(covers)


def _starts(length: int, patch: int, stride: int) -> list[int]:
    """Where patches begin along an axis, so that all of it is covered."""
    last = max(length - patch, 0)
    return sorted({*range(0, last + 1, stride), last})


def _covered(replays: Replays, number: int, covers: Tensor) -> Iterator[Inputs]:
    """The prompt with one picture covered, once for each of the covers [K, rows, cols]."""
    picture = replays.pictures[number]
    blank = BASELINES["mean-colour"](picture)
    for cover in covers:
        mask = Image.fromarray((cover * 255).byte().numpy()).resize(picture.size, Image.Resampling.NEAREST)
        pictures = list(replays.pictures)
        pictures[number] = Image.composite(blank, picture, mask)
        shown = pictures[0] if len(pictures) == 1 else pictures
        yield replays.adapter.prepare(shown, replays.inputs.prompt)
