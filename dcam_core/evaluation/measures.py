"""Metrics as they are asked for: by name, with parameters, some of which depend on the size of a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dcam_core.evaluation.making import make, read_parameters
from dcam_core.metric import Metric
from dcam_core.plugins.registry import Entry, Registry

__all__ = ["HALF_CELL", "Measure", "measures"]

HALF_CELL = "half-cell"
"""As the value of a parameter: half the shorter side of a token on the picture, in pixels, rounded."""


class Measure:
    """A metric with its parameters.

    Attributes:
        label: how it was asked for: "NAME" or "NAME:KEY=VALUE:KEY=VALUE".
        higher_is_better: whether a larger score is a better one.

    Args:
        label: the same.
        entry: the registered metric.
        parameters: keyword arguments for it; a value "half-cell" is replaced by its number of pixels.

    Raises:
        ConfigurationError: the metric does not take these parameters.
    """

    def __init__(self, label: str, entry: Entry[type[Metric]], parameters: Mapping[str, Any]) -> None:
        self.label = label
        self._entry, self._parameters = entry, dict(parameters)
        self._made: dict[int, Metric] = {}
        self.higher_is_better = self._metric(1).higher_is_better

    def score(self, maps: Tensor, masks: Tensor, half_cell: int) -> Tensor:
        """Score maps.

        Args:
            maps: [B, H, W] in [0, 1], at the size of the picture.
            masks: [B, H, W] bool.
            half_cell: half a token's side, in pixels.

        Returns:
            [B] float64, NaN where there is no score.
        """
        return self._metric(half_cell).checked_score(maps, masks)

    def _metric(self, half_cell: int) -> Metric:
        """The metric for pictures whose tokens have this size."""
        if half_cell not in self._made:
            filled = {
                key: half_cell if value == HALF_CELL else value for key, value in self._parameters.items()
            }
            self._made[half_cell] = make(self._entry, filled)
        return self._made[half_cell]


def measures(registry: Registry[type[Metric]], asked: Sequence[str] | None) -> list[Measure]:
    """The metrics that are asked for.

    Args:
        registry: all metrics.
        asked: "NAME" or "NAME:KEY=VALUE" each; None: those that were registered with `columns`.

    Raises:
        UnknownNameError: there is no metric of a name.
        ConfigurationError: a parameter is wrong.
    """
    if asked is None:
        asked = [
            f"{entry.name}:{text}" if text else entry.name
            for entry in registry
            for text in entry.metadata.get("columns", ())
        ]
    found = []
    for label in dict.fromkeys(asked):
        name, *settings = label.split(":")
        found.append(Measure(label, registry.entry(name), read_parameters(settings)))
    return found
