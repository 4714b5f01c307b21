"""Metrics: how well a map agrees with an object's mask."""

from dcam_plugins.metrics.localisation import energy_inside, intersection_over_union, otsu_threshold, pointing

__all__ = ["energy_inside", "intersection_over_union", "otsu_threshold", "pointing"]
