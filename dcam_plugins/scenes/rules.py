"""How generated scenes are put together: what a harder kind of scene changes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SceneRules"]


@dataclass(frozen=True)
class SceneRules:
    """What is drawn at random in a scene, and within which bounds. Lengths are shares of the picture's side.

    Attributes:
        count_weights: Share of scenes with 1, 2, 3, ... objects.
        min_radius: Smallest radius of an object.
        max_radius: Largest radius in scenes with 1, 2, 3, ... objects.
        min_order_gap: Smallest horizontal distance between two centres: the order left to right is never in doubt.
        min_distance: Smallest distance between two centres, as a share of the sum of their radii.
        min_visible: Smallest share of an object's pixels that later objects may leave visible.
        max_least_visible: Largest visible share that the most hidden object may have; below 1 something is hidden.
        twins: How many objects, from the first that is placed, have the same shape, in different colours.
        strokes: Number of short vivid strokes behind the objects, which have no name.
        seed: Tells kinds of scenes apart: two kinds share no draws. None for the scenes that have always been there.
    """

    count_weights: tuple[float, ...] = (0.15, 0.25, 0.3, 0.3)
    min_radius: float = 0.11
    max_radius: tuple[float, ...] = (0.23, 0.22, 0.19, 0.17)
    min_order_gap: float = 0.08
    min_distance: float = 0.85
    min_visible: float = 0.75
    max_least_visible: float = 1.0
    twins: int = 1
    strokes: int = 0
    seed: int | None = None
