"""Metrics as they are asked for: by name, with parameters, some of which depend on the size of a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dcam_core.errors import ConfigurationError, UnknownNameError
from dcam_core.evaluation.against import AGAINST
from dcam_core.evaluation.making import read_parameters
from dcam_core.evaluation.model_measures import FAITHFULNESS, MODEL_MEASURES, model_measure
from dcam_core.metric import Metric
from dcam_core.model_measure import ModelMeasure
from dcam_core.plugins.entry import normalise
from dcam_core.plugins.making import make
from dcam_core.plugins.registry import Entry, Registry

__all__ = ["HALF_CELL", "AskingMeasure", "Measure", "columns", "measures"]

HALF_CELL = "half-cell"
"""As the value of a parameter: half the shorter side of a token on the picture, in pixels, rounded."""


class Measure:
    """A metric that compares maps with masks, with its parameters.

    Attributes:
        label: how it was asked for: "NAME" or "NAME:KEY=VALUE:KEY=VALUE".
        higher_is_better: whether a larger score is a better one.

    Args:
        label: the same.
        entry: the registered metric.
        parameters: keyword arguments for it; a value "half-cell" is replaced by its number of pixels. `against`,
            one of `AGAINST`, is no parameter of the metric: it says which pixels the maps are compared with.

    Raises:
        ConfigurationError: the metric does not take these parameters, or asks for more than maps and masks.
    """

    def __init__(
        self, label: str, entry: Entry[type[Metric | ModelMeasure]], parameters: Mapping[str, Any]
    ) -> None:
        self.label = label
        self._entry, self._parameters = entry, dict(parameters)
        against = str(self._parameters.pop("against", "word"))
        if against not in AGAINST:
            raise ConfigurationError(
                f"metric {label!r}: against is {against!r}: it is one of {', '.join(AGAINST)}"
            )
        self._against = AGAINST[against]
        self._made: dict[int, Metric] = {}
        self.higher_is_better = self._metric(1).higher_is_better

    def score(self, maps: Tensor, masks: Tensor, classes: Tensor, half_cell: int) -> Tensor:
        """Score maps.

        Args:
            maps: [B, H, W] in [0, 1], at the size of the picture.
            masks: [B, H, W] bool, what the words name.
            classes: [C, H, W] bool, all classes in the picture, see `class_masks`.
            half_cell: half a token's side, in pixels.

        Returns:
            [B] float64, NaN where there is no score.
        """
        return self._against(self._metric(half_cell), maps, masks, classes)

    def _metric(self, half_cell: int) -> Metric:
        """The metric for pictures whose tokens have this size."""
        if half_cell not in self._made:
            filled = {
                key: half_cell if value == HALF_CELL else value for key, value in self._parameters.items()
            }
            metric = make(self._entry, filled)
            if not isinstance(metric, Metric):
                raise ConfigurationError(
                    f"metric {self.label!r} needs more than maps and masks, and here is no more: leave it out"
                )
            self._made[half_cell] = metric
        return self._made[half_cell]


@dataclass(frozen=True, eq=False)
class AskingMeasure:
    """A measure that asks the model, with its parameters; it needs no mask.

    Attributes:
        label: how it was asked for, as in `Measure`.
        measure: what gives the scores.
    """

    label: str
    measure: ModelMeasure

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.measure.higher_is_better


def measures(registry: Registry[type[Metric | ModelMeasure]], asked: Sequence[str] | None) -> list[Measure]:
    """The metrics that are asked for, all of which compare maps with masks.

    Args:
        registry: all metrics.
        asked: "NAME" or "NAME:KEY=VALUE" each; None: those that were registered with `columns`.

    Raises:
        UnknownNameError: there is no metric of a name.
        ConfigurationError: a parameter is wrong.
    """
    labels = _of_tables(registry) if asked is None else asked
    return [Measure(label, registry.entry(name), parameters) for label, name, parameters in _read(labels)]


def columns(
    registry: Registry[type[Metric | ModelMeasure]], asked: Sequence[str] | None
) -> list[Measure | AskingMeasure]:
    """The columns of an evaluation: metrics that compare maps with masks, and measures that ask the model.

    Args:
        registry: all metrics.
        asked: as in `measures`, or one of `MODEL_MEASURES`; "localisation" stands for what None means, and
            "faithfulness" for all of `FAITHFULNESS`.

    Raises:
        UnknownNameError: there is no metric of a name.
        ConfigurationError: a parameter is wrong.
    """
    sets = {"localisation": _of_tables(registry), "faithfulness": FAITHFULNESS}
    labels = [
        label for each in (["localisation"] if asked is None else asked) for label in sets.get(each, (each,))
    ]
    return [_column(registry, *each) for each in _read(labels)]


def _column(
    registry: Registry[type[Metric | ModelMeasure]], label: str, name: str, parameters: Mapping[str, Any]
) -> Measure | AskingMeasure:
    if normalise(name) in MODEL_MEASURES:
        return AskingMeasure(label, model_measure(normalise(name), parameters))
    entry = _entry(registry, name)
    if not issubclass(entry.load(), ModelMeasure):
        return Measure(label, entry, parameters)
    measure = make(entry, parameters)
    assert isinstance(measure, ModelMeasure)
    return AskingMeasure(label, measure)


def _entry(registry: Registry[type[Metric | ModelMeasure]], name: str) -> Entry[type[Metric | ModelMeasure]]:
    """A registered metric; if there is none, the message names the measures that ask the model too."""
    try:
        return registry.entry(name)
    except UnknownNameError as error:
        known = (*error.known, *MODEL_MEASURES)
        raise UnknownNameError(error.kind, error.name, known, error.hint) from error.__cause__ or error


def _of_tables(registry: Registry[type[Metric | ModelMeasure]]) -> list[str]:
    """The metrics that are meant for tables."""
    return [
        f"{entry.name}:{text}" if text else entry.name
        for entry in registry
        for text in entry.metadata.get("columns", ())
    ]


def _read(labels: Iterable[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(label, name, parameters) of every label, once."""
    for label in dict.fromkeys(labels):
        name, *settings = label.split(":")
        yield label, name, read_parameters(settings)
