"""Deletion and insertion: how a word's probability falls as cells of the picture go, and rises as they come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.faithfulness.perturbing import composed, first_cells, highest_first

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.faithfulness.asking import AskedWords

__all__ = ["DeletionInsertion", "area_under", "deletion_insertion"]


def area_under(values: Tensor, at: Tensor) -> Tensor:
    """Area under piecewise linear curves, by the trapezoidal rule.

    Args:
        values: [..., n] floating.
        at: [n] float64, rising from 0 to 1; not necessarily evenly.

    Returns:
        [...] float64.
    """
    return torch.trapezoid(values.double(), at.double(), dim=-1)


@dataclass(frozen=True, eq=False)
class DeletionInsertion:
    """Curves of T words.

    Attributes:
        fractions: [n] float64, shares of the cells, rising from 0 to 1.
        deleted: [T, n] float64, log-probability of each word with that share of its highest cells removed.
        inserted: [T, n] float64, its log-probability with that share of its highest cells shown, and no other.

    A map with all values turned round deletes last what this one deletes first. Its deletion curve is this insertion
    curve read from the right, so that its deletion AUC is this insertion AUC and its difference is minus this one:
    a map that beats its inverse is a map with a positive `difference`, and chance is 0.
    """

    fractions: Tensor
    deleted: Tensor
    inserted: Tensor

    @property
    def deletion_auc(self) -> Tensor:
        """[T] float64, area under the probability over that with the whole picture; lower is better."""
        return area_under(self._shares(self.deleted), self.fractions)

    @property
    def insertion_auc(self) -> Tensor:
        """[T] float64, area under the probability over that with the whole picture; higher is better."""
        return area_under(self._shares(self.inserted), self.fractions)

    @property
    def difference(self) -> Tensor:
        """[T] float64, insertion minus deletion AUC; 0 is chance, higher is better."""
        return self.insertion_auc - self.deletion_auc

    @property
    def log_difference(self) -> Tensor:
        """[T] float64 in nats, the same of log-probabilities: mean distance of the two curves.

        Not divided by anything, so that words which the model finds unlikely anyway do not blow up.
        """
        return area_under(self.inserted, self.fractions) - area_under(self.deleted, self.fractions)

    @property
    def deletion_probability(self) -> Tensor:
        """[T] float64 in [0, 1], area under the probability itself; lower is better.

        The shares of a word that the model hardly expects with the whole picture are unbounded, and one such word can
        decide a mean over many. This cannot happen here.
        """
        return area_under(self.deleted.exp(), self.fractions)

    @property
    def insertion_probability(self) -> Tensor:
        """[T] float64 in [0, 1], area under the probability itself; higher is better."""
        return area_under(self.inserted.exp(), self.fractions)

    @property
    def probability_difference(self) -> Tensor:
        """[T] float64 in [-1, 1], the second minus the first; 0 is chance, higher is better."""
        return self.insertion_probability - self.deletion_probability

    def _shares(self, log_probabilities: Tensor) -> Tensor:
        return (log_probabilities - self.deleted[:, :1]).exp()


def deletion_insertion(
    asked: AskedWords, maps: Tensor, baseline: Image, *, intervals: int = 20
) -> DeletionInsertion:
    """Remove cells from the highest to the lowest, and add them in the same order to a baseline.

    Costs 2 * (intervals - 1) forward passes for each word, and 2 for all words together.

    Args:
        asked: the words.
        maps: [T, h, w], a map for each word on a grid that divides the picture evenly: its cells are what is removed.
            Equals go in row-major order.
        baseline: what is shown in place of removed cells, e.g. `blurred(picture)` or a mean colour; of the picture's
            size.
        intervals: into how many steps the removal is divided; a step is ceil(cells / intervals) cells.

    Raises:
        UsageError: maps or baseline do not fit, or `intervals` is below 1.

    Source: Petsiuk et al., "RISE", BMVC 2018; steps as in torch-cam.
    """
    asked.check_maps(maps)
    if intervals < 1:
        raise UsageError(f"intervals is {intervals}: give at least 1")
    cells = maps[0].numel() if len(maps) else 1
    step = math.ceil(cells / intervals)
    counts = [*range(0, cells, step), cells]
    whole, nothing = asked.with_picture(asked.picture), asked.with_picture(baseline)
    curves = torch.empty(2, len(maps), len(counts), dtype=torch.float64)
    for word, map_ in enumerate(maps):
        order = highest_first(map_).cpu()
        for removing in (True, False):
            pictures = (_shown(asked, baseline, order, count, map_, removing) for count in counts[1:-1])
            ends = (whole[word], nothing[word]) if removing else (nothing[word], whole[word])
            between = asked.with_pictures(word, pictures)
            curves[int(not removing), word] = torch.cat([ends[0][None], between, ends[1][None]])
    fractions = torch.tensor(counts, dtype=torch.float64) / cells
    return DeletionInsertion(fractions, curves[0], curves[1])


def _shown(
    asked: AskedWords, baseline: Image, order: Tensor, count: int, map_: Tensor, removing: bool
) -> Image:
    """The picture without its `count` first cells, or with these alone."""
    pixels = first_cells(order, count, map_.shape, asked.picture.size)
    return composed(asked.picture, baseline, ~pixels if removing else pixels)
