"""Measures that ask the model and need no mask: faithfulness, sanity and stability, as columns of an evaluation.

What they compute is in `dcam_core.faithfulness`; here they get a name, parameters and one number per word.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError, TargetError
from dcam_core.evaluation.asked_sample import AskedSample, check_baseline
from dcam_core.faithfulness import (
    DeletionInsertion,
    drop_and_increase,
    noise_stability,
    other_labels,
    road,
    spearman,
)
from dcam_core.model_measure import ModelMeasure
from dcam_core.plugins.making import check_parameters

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.explainer import Explainer

__all__ = ["FAITHFULNESS", "MODEL_MEASURES", "likeness", "model_measure"]


class _OfCurves(ModelMeasure):
    """What deletion and insertion curves come to.

    Args:
        baseline: what is shown in place of removed tokens: "mean-colour" or "blur".
        intervals: into how many steps the removal is divided, at least 1.
    """

    def __init__(self, *, baseline: str = "mean-colour", intervals: int = 10) -> None:
        check_baseline(baseline)
        if not isinstance(intervals, int) or intervals < 1:
            raise ConfigurationError(f"intervals is {intervals!r}: give a whole number of at least 1")
        self.baseline, self.intervals = baseline, intervals

    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        return self._read(sample.curves(maps, self.baseline, self.intervals))

    @abstractmethod
    def _read(self, curves: DeletionInsertion) -> Tensor: ...


class InsertionDeletion(_OfCurves):
    """Area under the insertion curve of the word's probability minus that under the deletion curve; 0 is chance."""

    def _read(self, curves: DeletionInsertion) -> Tensor:
        return curves.probability_difference


class Insertion(_OfCurves):
    """Area under the insertion curve."""

    def _read(self, curves: DeletionInsertion) -> Tensor:
        return curves.insertion_probability


class Deletion(_OfCurves):
    """Area under the deletion curve."""

    higher_is_better = False

    def _read(self, curves: DeletionInsertion) -> Tensor:
        return curves.deletion_probability


class RoadScore(ModelMeasure):
    """ROAD: half the mean distance between removing the least and the most relevant tokens; 0 is chance.

    Args:
        percentiles: as in `dcam_core.faithfulness.road`.
    """

    def __init__(self, *, percentiles: Sequence[int] = (50, 70, 80, 90)) -> None:
        self.percentiles = tuple(percentiles)
        if not self.percentiles or not all(
            isinstance(each, int) and 0 < each < 100 for each in self.percentiles
        ):
            raise ConfigurationError(
                f"percentiles are {list(self.percentiles)}: give whole numbers above 0 and below 100"
            )

    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        return road(sample.words, sample.on_tokens(maps), percentiles=self.percentiles).score


class AverageDrop(ModelMeasure):
    """Share of the word's probability that is lost where only what the map lights up is shown."""

    higher_is_better = False

    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        return drop_and_increase(sample.words, maps).drop


class _OfRawMaps(ModelMeasure):
    """What becomes of a method's raw maps where something is changed: what refiners do is no part of the model."""

    higher_is_better = False

    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        if explainer is None:
            return torch.full((len(maps),), float("nan"), dtype=torch.float64)
        return self._compare(sample, explainer)

    @abstractmethod
    def _compare(self, sample: AskedSample, explainer: Explainer) -> Tensor: ...


class ParameterRandomisation(_OfRawMaps):
    """Rank correlation, without its sign, with the map of a model whose blocks are all in random order.

    A map that does not change does not depend on what the model has learned.

    Args:
        seed: of the random order.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _compare(self, sample: AskedSample, explainer: Explainer) -> Tensor:
        return likeness(sample.raw_maps(explainer), sample.raw_maps_randomised(self.seed, explainer))


class LabelRandomisation(_OfRawMaps):
    """Rank correlation, without its sign, with the map of another word of the answer at the same place.

    A map that does not change does not depend on the word.

    Args:
        seed: of the choice of the other word.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _compare(self, sample: AskedSample, explainer: Explainer) -> Tensor:
        try:
            others = other_labels(sample.targets, self.seed)
        except TargetError:
            # The answer has no other word to take: nothing can be said of this sample.
            return torch.full((len(sample.targets),), float("nan"), dtype=torch.float64)
        return likeness(sample.raw_maps(explainer), sample.raw_maps_of(others, explainer))


class NoiseStability(_OfRawMaps):
    """Mean rank correlation with the maps of the same picture under noise that nobody sees.

    Args:
        std: standard deviation of the noise, as a share of the range from black to white.
        repeats: how many noisy pictures, at least 1.
        seed: of the noise.
    """

    higher_is_better = True

    def __init__(self, *, std: float = 0.02, repeats: int = 2, seed: int = 0) -> None:
        if not isinstance(std, int | float) or not std > 0:
            raise ConfigurationError(f"std is {std!r}: give a number above 0")
        if not isinstance(repeats, int) or repeats < 1:
            raise ConfigurationError(f"repeats is {repeats!r}: give a whole number of at least 1")
        self.std, self.repeats, self.seed = std, repeats, seed

    def _compare(self, sample: AskedSample, explainer: Explainer) -> Tensor:
        def explain(picture: Image) -> Tensor:
            if picture is sample.picture:
                return sample.raw_maps(explainer)
            return sample.raw_maps_with(picture, explainer)

        return noise_stability(explain, sample.picture, std=self.std, repeats=self.repeats, seed=self.seed)


def likeness(maps: Tensor, changed: Tensor) -> Tensor:
    """[T] float64 in [0, 1], rank correlation without its sign; NaN where there was nothing that could change.

    A map that has become the same everywhere keeps nothing of what it was: 0. To leave it out would leave out the
    largest change there can be.
    """
    found = spearman(maps, changed).abs()
    was_flat, is_flat = (
        (each.amax((1, 2)) == each.amin((1, 2))).to(found.device) for each in (maps, changed)
    )
    return found.masked_fill(is_flat & ~was_flat, 0.0)


MODEL_MEASURES: Mapping[str, type[ModelMeasure]] = {
    "average-drop": AverageDrop,
    "deletion": Deletion,
    "insertion": Insertion,
    "insertion-deletion": InsertionDeletion,
    "label-randomisation": LabelRandomisation,
    "noise-stability": NoiseStability,
    "parameter-randomisation": ParameterRandomisation,
    "road": RoadScore,
}
"""Name -> measure."""

FAITHFULNESS = (
    "insertion-deletion",
    "road",
    "parameter-randomisation",
    "label-randomisation",
    "noise-stability",
)
"""What is measured where faithfulness is asked for as a whole."""


def model_measure(name: str, parameters: Mapping[str, Any]) -> ModelMeasure:
    """A measure with its parameters.

    Args:
        name: one of `MODEL_MEASURES`.
        parameters: keyword arguments for it.

    Raises:
        ConfigurationError: it does not take these parameters.
    """
    check_parameters(f"metric {name!r}", MODEL_MEASURES[name], parameters)
    try:
        return MODEL_MEASURES[name](**parameters)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"metric {name!r} cannot be made with {dict(parameters)}: {error}"
        ) from error
