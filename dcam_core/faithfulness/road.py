"""ROAD: remove and debias. What is removed is imputed, so that the shape of the hole says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.faithfulness.imputing import impute
from dcam_core.faithfulness.perturbing import first_cells, highest_first, picture_of, pixels_of

if TYPE_CHECKING:
    from dcam_core.faithfulness.asking import AskedWords

__all__ = ["Road", "road"]

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


@dataclass(frozen=True, eq=False)
class Road:
    """Log-probabilities of T words with parts of the picture imputed.

    Attributes:
        percentiles: p values; the (100 - p) % highest, or lowest, cells are removed.
        whole: [T] float64, with the whole picture.
        most_relevant: [T, p] float64, with the highest cells removed.
        least_relevant: [T, p] float64, with the lowest cells removed.

    For a map with all values turned round the two change places, and the score changes its sign: chance is 0.
    """

    percentiles: tuple[int, ...]
    whole: Tensor
    most_relevant: Tensor
    least_relevant: Tensor

    @property
    def score(self) -> Tensor:
        """[T] float64 in [-0.5, 0.5], half the mean distance of the probabilities; higher is better."""
        return (self.least_relevant.exp() - self.most_relevant.exp()).mean(-1) / 2

    @property
    def log_score(self) -> Tensor:
        """[T] float64 in nats, the same of the log-probabilities."""
        return (self.least_relevant - self.most_relevant).mean(-1) / 2


def road(
    asked: AskedWords,
    maps: Tensor,
    *,
    percentiles: Sequence[int] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
) -> Road:
    """Remove the highest, and the lowest, cells of each map and fill them in from what is around.

    Costs 2 * len(percentiles) forward passes and imputations for each word, and one pass for all words together.

    Args:
        asked: the words.
        maps: [T, h, w], a map for each word on a grid that divides the picture evenly: its cells are what is removed,
            (100 - p) % of them, rounded down, equals in row-major order. (The published code compares pixels with a
            percentile, and then removes all or nothing of a map with many equal values.)
        percentiles: whole numbers in (0, 100).
        noise: standard deviation of the noise on imputed pixels, as a share of the range from black to white.
        seed: of the noise.

    Raises:
        UsageError: maps do not fit, or a percentile is not in (0, 100).

    Source: Rong et al., ICML 2022.
    """
    asked.check_maps(maps)
    if not percentiles or not all(0 < p < 100 for p in percentiles):
        raise UsageError(f"percentiles are {list(percentiles)}: give whole numbers above 0 and below 100")
    pixels = pixels_of(asked.picture)
    found = torch.empty(2, len(maps), len(percentiles), dtype=torch.float64)
    for word, map_ in enumerate(maps):
        order = highest_first(map_).cpu()
        for side, ranking in enumerate((order, order.flip(0))):
            pictures = []
            for p in percentiles:
                count = (100 - p) * len(ranking) // 100
                hole = first_cells(ranking, count, map_.shape, asked.picture.size)
                pictures.append(picture_of(impute(pixels, hole, noise=noise, seed=seed)))
            found[side, word] = asked.with_pictures(word, pictures)
    return Road(tuple(percentiles), asked.with_picture(asked.picture), found[0], found[1])
