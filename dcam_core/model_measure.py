"""What a measure is that needs more than a map and a mask: it may ask the model, the method, or for other words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from dcam_core.evaluation.asked_sample import AskedSample
    from dcam_core.explainer import Explainer

__all__ = ["ModelMeasure"]


class ModelMeasure(ABC):
    """A column of an evaluation whose numbers the model gives: faithfulness, sanity, stability.

    Where a `Metric` compares a map with a mask, this is handed the run behind the map. Parameters are keyword
    arguments of `__init__`; those that cannot be right are refused there, before a model is loaded. The model is left
    as it was found.

    Attributes:
        higher_is_better: whether a larger score is a better one.

    Example:
        >>> class Wordiness(ModelMeasure):
        ...     higher_is_better = False
        ...
        ...     def score(self, sample, maps, explainer):
        ...         return torch.full((len(maps),), len(sample.runs.answer.words), dtype=torch.float64)
    """

    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        """Score the maps of a sample's words.

        Args:
            sample: the run and its T words.
            maps: [T, rows, columns] in [0, 1], the maps of a method.
            explainer: the method; None where the maps are no method's, but known.

        Returns:
            [T] float64, NaN where there is no score.
        """
