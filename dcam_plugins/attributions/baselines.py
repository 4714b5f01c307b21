"""Attributions that know nothing of the model: what every method has to beat."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_core.errors import ConfigurationError

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["CentrePrior", "RandomMap"]


class RandomMap(ModelAttribution):
    """Independent uniform numbers, others for every word and state, the same in every run.

    Args:
        seed: another seed gives other maps.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`."""
        count = len(replays.positions)
        maps = []
        for reading in replays.readings:
            # A word gets the same map alone and among others.
            key = repr((self.seed, reading.state.tolist(), reading.positions, reading.token_ids))
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            maps.append(torch.rand(count, generator=generator))
        return torch.stack(maps)


class CentrePrior(ModelAttribution):
    """A Gaussian around the middle of each picture: photographers put things there.

    Args:
        width: standard deviation, as a share of the picture's width and height.
    """

    def __init__(self, *, width: float = 0.25) -> None:
        super().__init__()
        if width <= 0:
            raise ConfigurationError(f"centre-prior: width is {width}: give a number above 0")
        self.width = width

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`."""
        evidence = []
        for grid in replays.grids:
            down, across = (
                torch.exp(-0.5 * (((torch.arange(cells) + 0.5) / cells - 0.5) / self.width) ** 2)
                for cells in (grid.rows, grid.cols)
            )
            evidence.append(grid.read(torch.outer(down, across)[None])[0])
        return torch.cat(evidence).expand(len(replays.readings), -1)
