"""Outlines of the object classes as signed distance functions.

A signed distance function maps a point to its distance from an outline, negative inside. Drawing from distances
needs nothing but arithmetic, so that the pixels of a scene do not depend on the version of a drawing library.

Every outline lives in the unit disc: `x` grows to the right, `y` downwards, and one unit is the object's radius.
Distances are exact or close to exact near the outline, which is all that antialiasing needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTLINES", "FloatArray", "Outline", "polygon"]

FloatArray = NDArray[np.float64]
Outline = Callable[[FloatArray, FloatArray], FloatArray]
"""Maps coordinates `x` and `y` of equal shape to signed distances of that shape."""


def _disc(x: FloatArray, y: FloatArray, centre: tuple[float, float], radius: float) -> FloatArray:
    return np.hypot(x - centre[0], y - centre[1]) - radius


def _box(x: FloatArray, y: FloatArray, half_width: float, half_height: float) -> FloatArray:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def polygon(vertices: Sequence[tuple[float, float]]) -> Outline:
    """Signed distance to a simple polygon, by nearest edge and crossing number.

    Args:
        vertices: Corners in order, at least three; the last is joined to the first.

    Returns:
        The exact signed distance function.
    """
    start = np.asarray(vertices, dtype=np.float64)
    edge = np.roll(start, -1, axis=0) - start
    squared_length = (edge**2).sum(axis=1)

    def distance(x: FloatArray, y: FloatArray) -> FloatArray:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (ex, ey), length in zip(start, edge, squared_length, strict=True):
            px, py = x - ax, y - ay
            along = np.clip((px * ex + py * ey) / length, 0, 1)
            np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2, out=nearest)
            # A horizontal ray from the point crosses this edge (the half-open test counts a shared corner once).
            crosses = (ay > y) != (ay + ey > y)
            inside ^= crosses & ((ex * py - ey * px) * np.sign(ey) > 0) if ey else False
        return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)

    return distance


def _circle(x: FloatArray, y: FloatArray) -> FloatArray:
    return _disc(x, y, (0.0, 0.0), 0.92)


def _square(x: FloatArray, y: FloatArray) -> FloatArray:
    return _box(x, y, 0.78, 0.78)


def _ring(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.25


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.minimum(_box(x, y, 0.96, 0.32), _box(x, y, 0.32, 0.96))


_HEART_TIP = polygon([(0, 0.95), (0.835, 0.029), (0.45, -0.32), (0, -0.4), (-0.45, -0.32), (-0.835, 0.029)])


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    lobes = _disc(np.abs(x), y, (0.45, -0.32), 0.52)
    return np.minimum(lobes, _HEART_TIP(x, y))


def _moon(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.maximum(_disc(x, y, (0.0, 0.0), 0.96), -_disc(x, y, (0.46, 0.0), 0.74))


_FISH_TAIL = polygon([(0.2, 0.0), (0.98, -0.62), (0.98, 0.62)])


def _fish(x: FloatArray, y: FloatArray) -> FloatArray:
    body = (np.hypot((x + 0.25) / 0.73, y / 0.5) - 1) * 0.5
    return np.minimum(body, _FISH_TAIL(x, y))


def _star_corners(points: int, inner: float) -> list[tuple[float, float]]:
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return [(float(r * np.sin(a)), float(-r * np.cos(a))) for r, a in zip(radii, angles, strict=True)]


def _mirrored(right_half: Sequence[tuple[float, float]]) -> Outline:
    """Polygon from its right half, listed from the top of the axis to the bottom."""
    left = [(-x, y) for x, y in reversed(right_half) if x > 0]
    return polygon([*right_half, *left])


OUTLINES: Mapping[str, Outline] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "triangle": polygon([(0.0, -0.98), (0.95, 0.72), (-0.95, 0.72)]),
        "star": polygon(_star_corners(points=5, inner=0.42)),
        "ring": _ring,
        "cross": _cross,
        "heart": _heart,
        "moon": _moon,
        "diamond": polygon([(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)]),
        "house": _mirrored([(0.0, -0.95), (0.95, -0.1), (0.66, -0.1), (0.66, 0.85)]),
        "tree": _mirrored(
            [(0.0, -1.0), (0.58, -0.22), (0.28, -0.22), (0.84, 0.52), (0.2, 0.52), (0.2, 0.98)]
        ),
        "fish": _fish,
    }
)
"""Signed distance function of every object class, by its word."""
