"""From image tokens to one grid over the picture.

A family may show a picture to the model several times: LLaDA-V as a squashed overview and again as tiles.
Every token knows the rectangle of the original picture that it covers, so all views can be laid on one
regular grid over the whole picture. The rule:

* The grid has the rows and columns of the finest view, the one with the most tokens.
* Within a view, a cell takes the mean of the tokens that overlap it, weighted by the overlapping area.
* Across views, a cell takes the mean of the views, weighted by the share of the cell that each covers.
* A cell that no token covers is 0: the model saw nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.inputs import ImageView, Inputs

__all__ = ["PictureGrid", "picture_grids", "select_views"]


FINEST = "finest"
"""Stands for a picture's most detailed view, so that a method can ask for it in every family."""


def select_views(inputs: Inputs, names: Sequence[str] | None, picture: int = 0) -> tuple[ImageView, ...]:
    """The views of one picture that contribute to its maps.

    Args:
        inputs: the prepared prompt.
        names: names of views; "finest" is the last of those with the most tokens, whatever its name. None: all
            there are.
        picture: which picture of the prompt, counted from 0.

    Raises:
        ConfigurationError: a name is not a view of this picture, or the picture has no view at all.
    """
    own = tuple(view for view in inputs.views if view.picture == picture)
    if not own:
        raise ConfigurationError(
            f"picture {picture} has no view: its adapter did not say where its tokens are"
        )
    if names is None:
        return own
    there = {view.name: view for view in own}
    finest = max(reversed(own), key=lambda view: view.positions.numel())
    names = [finest.name if name == FINEST else name for name in names]
    which = "this picture" if len(inputs.picture_sizes) == 1 else f"picture {picture}"
    for name in names:
        if name not in there:
            raise ConfigurationError(
                f"views: {name!r} is not a view of {which}: there are {', '.join(there)}"
            )
    if not names:
        raise ConfigurationError(f"views is empty: name at least one of {', '.join(there)}")
    return tuple(view for view in own if view.name in names)


def picture_grids(inputs: Inputs, names: Sequence[str] | None) -> tuple[PictureGrid, ...]:
    """One grid per picture of the prompt, in their order.

    Args:
        inputs: the prepared prompt.
        names: names of the views that contribute; None: all.

    Raises:
        ConfigurationError: a name is not a view of one of the pictures.
    """
    return tuple(
        PictureGrid.over(select_views(inputs, names, picture), size)
        for picture, size in enumerate(inputs.picture_sizes)
    )


@dataclass(frozen=True, eq=False)
class PictureGrid:
    """A regular grid over the whole picture, and how the tokens of some views are laid on it.

    Attributes:
        rows: rows of the grid.
        cols: columns of the grid.
        positions: [N] int64, sequence positions of the image tokens of all views, view after view, each in
            row-major order.
        weights: [rows * cols, N] float32; a row sums to 1, or to 0 where no token covers the cell.
    """

    rows: int
    cols: int
    positions: Tensor
    weights: Tensor

    @classmethod
    def over(cls, views: Sequence[ImageView], picture_size: tuple[int, int]) -> PictureGrid:
        """The grid for some views of one picture.

        Args:
            views: at least one view.
            picture_size: (width, height) of the picture in pixels.
        """
        rows, cols = max((view.grid for view in views), key=lambda grid: grid[0] * grid[1])
        width, height = picture_size
        x_edges = torch.linspace(0, width, cols + 1, dtype=torch.float64)
        y_edges = torch.linspace(0, height, rows + 1, dtype=torch.float64)
        cell_area = (width / cols) * (height / rows)

        weights = []
        for view in views:
            x0, y0, x1, y1 = view.rectangles.reshape(-1, 4).to(torch.float64).unbind(-1)
            across = (torch.minimum(x_edges[1:, None], x1) - torch.maximum(x_edges[:-1, None], x0)).clamp(
                min=0
            )
            down = (torch.minimum(y_edges[1:, None], y1) - torch.maximum(y_edges[:-1, None], y0)).clamp(min=0)
            overlap = (down[:, None, :] * across[None, :, :]).flatten(0, 1)
            # Overlapping rectangles of one view may cover a cell more than once: its share is at most all.
            total = overlap.sum(-1, keepdim=True)
            share = (total / cell_area).clamp(max=1)
            weights.append(share * overlap / total.clamp(min=torch.finfo(torch.float64).tiny))
        stacked = torch.cat(weights, dim=-1)
        covered = stacked.sum(-1, keepdim=True)
        # Slivers from rounding the edges do not count as seen.
        stacked = torch.where(covered > 1e-6, stacked / covered.clamp(min=1e-6), 0)
        positions = torch.cat([view.positions.flatten() for view in views])
        return cls(rows, cols, positions, stacked.float())

    def lay(self, values: Tensor) -> Tensor:
        """Lay token values on the grid.

        Args:
            values: [B, N] raw evidence per image token, any floating dtype.

        Returns:
            [B, rows, cols] float32 on the same device.
        """
        cells = values.float() @ self.weights.to(values.device).T
        return cells.view(-1, self.rows, self.cols)

    def read(self, cells: Tensor) -> Tensor:
        """The other way round: every token takes the mean of the cells that it overlaps, weighted by area.

        Args:
            cells: [B, rows, cols], any floating dtype.

        Returns:
            [B, N] float32 on the same device; 0 for a token that lies outside of the picture.
        """
        weights = self.weights.to(cells.device)
        total = weights.sum(dim=0)
        return cells.float().flatten(1) @ (weights / total.where(total > 0, 1))
