"""Against which pixels a map is scored: those of the object that the word names, or what other protocols take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from dcam_core.dataset import SampleObject
from dcam_core.metric import Metric

__all__ = ["AGAINST", "Against", "class_masks"]

Against: TypeAlias = Callable[[Metric, Tensor, Tensor, Tensor], Tensor]
"""(metric, maps [B, H, W], masks of the words [B, H, W], masks of the classes [C, H, W]) -> scores [B] float64."""


def class_masks(objects: Sequence[SampleObject]) -> Tensor:
    """The classes in a picture: objects that are called the same are one.

    Args:
        objects: at least one.

    Returns:
        [C, H, W] bool, in the order in which the classes come first.
    """
    classes: dict[tuple[str, ...], Tensor] = {}
    for each in objects:
        known = classes.get(each.words)
        classes[each.words] = each.mask if known is None else known | each.mask
    return torch.stack(list(classes.values()))


def _word(metric: Metric, maps: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """Against the object that the word names."""
    return metric.checked_score(maps, masks)


def _all_objects(metric: Metric, maps: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """Against all that is annotated in the picture together, whichever word is explained."""
    return metric.checked_score(maps, classes.any(0).expand_as(masks).contiguous())


def _best_class(metric: Metric, maps: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """Against the class that the map happens to fit best, whichever word is explained: an oracle."""
    scores = torch.stack([metric.checked_score(maps, each.expand_as(masks).contiguous()) for each in classes])
    worst = float("-inf") if metric.higher_is_better else float("inf")
    known = scores.where(~scores.isnan(), worst)
    best = known.amax(0) if metric.higher_is_better else known.amin(0)
    return best.where(best != worst, float("nan"))


AGAINST: Mapping[str, Against] = {"word": _word, "all-objects": _all_objects, "best-class": _best_class}
"""What may stand as `against=` among the parameters of a metric."""
