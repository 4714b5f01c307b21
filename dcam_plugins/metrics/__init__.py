"""Metrics: how well a map agrees with an object's mask."""

from dcam_plugins.metrics.energy_pointing_game import EnergyPointingGame
from dcam_plugins.metrics.intersection_over_union import IntersectionOverUnion
from dcam_plugins.metrics.localisation import energy_inside, intersection_over_union, otsu_threshold, pointing
from dcam_plugins.metrics.pointing_game import PointingGame

__all__ = [
    "EnergyPointingGame",
    "IntersectionOverUnion",
    "PointingGame",
    "energy_inside",
    "intersection_over_union",
    "otsu_threshold",
    "pointing",
]
