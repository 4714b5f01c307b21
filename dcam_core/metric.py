"""What a metric is: maps and the masks of the objects they should lie on in, one score per map out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from dcam_core.errors import PluginError, UsageError

__all__ = ["GivenScores", "MeanScore", "Metric", "check_maps_and_masks"]


class MeanScore(torchmetrics.Metric):
    """The mean of scores, over batches and processes; what has no score is left out and counted.

    What every measure of maps shares, whatever it compares them with. `Metric` takes maps and masks; a measure that
    needs more (a label map, the kinds of the words) derives from this class and says so in its own `update`.

    Attributes:
        higher_is_better: whether a larger score is a better one; to be overridden where it is not.
        total: [] float64, sum of the scores since the last reset.
        defined: [] int64, number of maps that have a score.
        undefined: [] int64, number of maps that have none, and are not in the mean.
    """

    higher_is_better: bool = True
    is_differentiable: bool = False
    full_state_update: bool = False  # scores add up: `forward` and merging need no second pass

    total: Tensor
    defined: Tensor
    undefined: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("defined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def keep(self, scores: Tensor) -> None:
        """Add scores to the sums.

        Args:
            scores: [B] float64, finite, or NaN where there is no score.
        """
        known = ~scores.isnan()
        self.total += scores.where(known, 0).sum()
        self.defined += known.sum()
        self.undefined += (~known).sum()

    def compute(self) -> Tensor:
        """The mean score: [] float64; NaN where no map has one."""
        return self.total / self.defined


class GivenScores(MeanScore):
    """The mean of scores that were made elsewhere, such as those of faithfulness.

    Example:
        >>> mean = GivenScores()
        >>> mean.update(torch.tensor([0.5, float("nan")], dtype=torch.float64))
        >>> float(mean.compute()), int(mean.defined), int(mean.undefined)
        (0.5, 1, 1)
    """

    def update(self, scores: Tensor) -> None:
        """Add scores: [B] floating, finite, or NaN where there is none.

        Raises:
            UsageError: they are something else.
        """
        if scores.ndim != 1 or not scores.is_floating_point() or bool(scores.isinf().any()):
            raise UsageError(
                f"scores are {list(scores.shape)} {scores.dtype} with {int(scores.isinf().sum())} infinite values: "
                "give [B] floating values, each finite, or NaN where there is no score"
            )
        self.keep(scores.double())


class Metric(MeanScore, ABC):
    """A measure of how well maps agree with object masks, e.g. the pointing game.

    It is a `torchmetrics.Metric`: maps are given batch by batch to `update`, `compute` is the mean score over all
    of them, `reset` begins anew, and processes are synchronised by torchmetrics. What has no score (a map against
    an empty mask) never becomes a number: it is left out of the mean, and counted.

    Subclasses take their parameters as keyword arguments of `__init__`, hand `**options` on to torchmetrics, and
    implement `score` as a pure function: no randomness, nothing written into the inputs, any device and floating
    dtype, no map looking at another one, so that a map scores the same alone and in a batch. Of all maps, the
    mask itself, 1 on the object and 0 elsewhere, has the best score.

    States and `higher_is_better` are those of `MeanScore`.

    Example:
        >>> class Coverage(Metric):
        ...     def score(self, maps, masks):
        ...         on_object = (maps.double() * masks).sum((1, 2))
        ...         return on_object / masks.sum((1, 2))  # 0 / 0, which is NaN, for an empty mask
        >>> metric = Coverage()
        >>> masks = torch.tensor([[[True, False]], [[False, False]]])
        >>> metric.update(torch.tensor([[[0.5, 1.0]], [[1.0, 1.0]]]), masks)
        >>> float(metric.compute()), int(metric.defined), int(metric.undefined)
        (0.5, 1, 1)
    """

    @abstractmethod
    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score each map against its object.

        Args:
            maps: [B, H, W] values in [0, 1] at the size of the picture, any floating dtype.
            masks: [B, H, W] bool, the pixels of the object.

        Returns:
            [B] float64 finite scores, and NaN where there is none: for an empty mask at least.
        """

    def checked_score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score a batch, and hold both sides to what was said; the sums are not touched.

        Args:
            maps: [B, H, W] values in [0, 1]; B may be 0.
            masks: [B, H, W] bool, the object of every map.

        Returns:
            [B] float64, finite, or NaN where there is no score.

        Raises:
            UsageError: shapes, dtypes or values are not as said.
            PluginError: `score` did not give [B] float64 values that are finite or NaN.
        """
        check_maps_and_masks(maps, masks)
        scores = self.score(maps, masks)
        if scores.shape != maps.shape[:1] or scores.dtype != torch.float64 or bool(scores.isinf().any()):
            raise PluginError(
                type(self).__name__,
                f"metric {type(self).__name__} gave {list(scores.shape)} {scores.dtype} with "
                f"{int(scores.isinf().sum())} infinite values for {len(maps)} maps: score must give "
                f"[{len(maps)}] torch.float64, each finite, or NaN where there is no score",
            )
        return scores

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Score a batch and keep the sums; H and W may differ between calls.

        Arguments and errors are those of `checked_score`.
        """
        self.keep(self.checked_score(maps, masks))


def check_maps_and_masks(maps: Tensor, masks: Tensor) -> None:
    """Refuse what no metric can compare.

    Args:
        maps: must be [B, H, W] floating, in [0, 1].
        masks: must be [B, H, W] bool.

    Raises:
        UsageError: they are not.
    """
    if maps.ndim != 3 or not maps.is_floating_point():
        raise UsageError(
            f"maps are {list(maps.shape)} {maps.dtype}: a metric takes [B, H, W] floating values"
        )
    if masks.shape != maps.shape or masks.dtype != torch.bool:
        raise UsageError(
            f"masks are {list(masks.shape)} {masks.dtype} beside maps {list(maps.shape)}: a metric takes one bool "
            "mask per map, of the map's size; stretch the maps to the picture first"
        )
    if maps.numel() and not (maps.amin() >= 0 and maps.amax() <= 1):
        raise UsageError(
            f"maps hold values from {maps.amin().item():g} to {maps.amax().item():g}: a metric takes values in "
            "[0, 1]; normalise the maps first"
        )
