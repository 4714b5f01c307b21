"""Draws generated scenes: backgrounds, shaded and textured objects, drop shadows, exact visible masks.

Colours are linear floats in [0, 1] until the last step; coordinates are pixels with the centre of the first pixel
at 0.5. All randomness comes from the generator passed in, and only through `Generator.random`, whose stream is
the most stable part of numpy's generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dcam_plugins.scenes.shapes import OUTLINES, FloatArray

__all__ = [
    "COLOURS",
    "Placement",
    "choose",
    "draw_background",
    "draw_object",
    "draw_stroke",
    "signed_distance",
    "uniform",
]

COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.86, 0.11, 0.12),
        "orange": (0.98, 0.50, 0.05),
        "yellow": (0.97, 0.88, 0.12),
        "green": (0.13, 0.62, 0.18),
        "cyan": (0.15, 0.82, 0.86),
        "blue": (0.12, 0.24, 0.88),
        "purple": (0.56, 0.16, 0.70),
        "white": (0.97, 0.97, 0.96),
    }
)
"""Well separated object colours, as RGB in [0, 1]. Backgrounds are duller than any of them."""

SHADOW_MARGIN = 7
"""Pixels around an object that its shadow and its soft edge may touch."""


@dataclass(frozen=True)
class Placement:
    """Where and how one object is drawn.

    Attributes:
        shape: Key of `OUTLINES`.
        colour: Key of `COLOURS`.
        x: Horizontal centre in pixels.
        y: Vertical centre in pixels.
        radius: Pixels per unit of the outline.
        angle: Rotation in radians, clockwise on the screen.
        mirrored: Whether left and right of the outline are exchanged.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool


def uniform(random: Generator, low: float, high: float) -> float:
    """One number from `[low, high)`."""
    return low + (high - low) * float(random.random())


def choose(random: Generator, count: int) -> int:
    """One index from `0 .. count - 1`."""
    return int(random.random() * count)


def _wave(size: int, random: Generator, shortest: float, longest: float) -> FloatArray:
    """Plane wave of random direction, wavelength (pixels) and phase, values in [-1, 1]: `[size, size]`."""
    direction, phase = uniform(random, 0, np.pi), uniform(random, 0, 2 * np.pi)
    number = 2 * np.pi / uniform(random, shortest, longest)
    along = np.arange(size) + 0.5
    argument = number * (np.cos(direction) * along[None, :] + np.sin(direction) * along[:, None]) + phase
    wave: FloatArray = np.sin(argument)
    return wave


def _smooth_noise(size: int, random: Generator, cells: int) -> FloatArray:
    """Random values on a coarse grid, bilinearly interpolated, values in [-1, 1]: `[size, size]`."""
    coarse = random.random((cells + 1, cells + 1)) * 2 - 1
    at = (np.arange(size) + 0.5) * cells / size
    low = at.astype(np.int64)
    weight = at - low
    rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, low + 1] * weight


def _muted_colour(random: Generator) -> FloatArray:
    """A dull colour: mid brightness, little saturation: `[3]`."""
    tint = random.random(3)
    tint = tint - tint.mean()
    colour: FloatArray = np.clip(uniform(random, 0.25, 0.62) + 0.22 * tint, 0.0, 1.0)
    return colour


def draw_background(size: int, random: Generator) -> FloatArray:
    """Flat, gradient, low-frequency noise, stripes or checker board in two dull colours, with fine grain.

    Args:
        size: Side of the square picture in pixels.
        random: Source of all choices.

    Returns:
        `[size, size, 3]`, values in [0, 1].
    """
    first, second = _muted_colour(random), _muted_colour(random)
    kind = choose(random, 5)
    if kind == 0:
        mix = np.zeros((size, size))
    elif kind == 1:
        mix = _wave(size, random, 2.0 * size, 4.0 * size)
    elif kind == 2:
        mix = _smooth_noise(size, random, 3 + choose(random, 5))
    elif kind == 3:
        mix = np.clip(4 * _wave(size, random, 10, 32), -1, 1)
    else:
        cell = uniform(random, 8, 24)
        at = np.floor((np.arange(size) + size * random.random()) / cell).astype(np.int64)
        mix = ((at[:, None] + at[None, :]) % 2) * 2.0 - 1
    # Patterns are faint, so that the strongest edges of a scene are those of its objects.
    half = (0.5 + 0.35 * mix)[..., None]
    grain = (random.random((size, size, 1)) - 0.5) * uniform(random, 0.0, 0.06)
    return first * half + second * (1 - half) + grain


def draw_stroke(canvas: FloatArray, random: Generator) -> None:
    """Draws a short, thin, straight stroke in a vivid colour: clutter without a name.

    Args:
        canvas: `[size, size, 3]`, values in [0, 1]; changed in place.
        random: Source of all choices.
    """
    size = canvas.shape[0]
    x, y = uniform(random, 0, size), uniform(random, 0, size)
    angle, half = uniform(random, 0, np.pi), uniform(random, 0.02, 0.07) * size
    width = uniform(random, 0.005, 0.012) * size
    colour = np.asarray(list(COLOURS.values()))[choose(random, len(COLOURS))]
    at = np.arange(size) + 0.5
    dx, dy = at[None, :] - x, at[:, None] - y
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    distance = np.hypot(np.maximum(np.abs(along) - half, 0), across) - width
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[:] = canvas * (1 - cover) + colour * uniform(random, 0.75, 1.0) * cover


def signed_distance(placement: Placement, x: FloatArray, y: FloatArray) -> FloatArray:
    """Distance in pixels from points to the outline of a placed object, negative inside.

    Args:
        placement: The object.
        x: Horizontal pixel coordinates, broadcastable with `y`.
        y: Vertical pixel coordinates.

    Returns:
        Distances, of the broadcast shape of `x` and `y`.
    """
    dx, dy = (x - placement.x) / placement.radius, (y - placement.y) / placement.radius
    cos, sin = np.cos(placement.angle), np.sin(placement.angle)
    across, down = dx * cos + dy * sin, dy * cos - dx * sin
    if placement.mirrored:
        across = -across
    return OUTLINES[placement.shape](across, down) * placement.radius


def draw_object(canvas: FloatArray, placement: Placement, random: Generator) -> NDArray[np.bool_]:
    """Draws one object and its shadow over what is there already.

    Args:
        canvas: `[H, W, 3]`, values in [0, 1], changed in place.
        placement: The object.
        random: Source of shading, texture and shadow.

    Returns:
        Mask of the object's pixels, `[H, W]`: at least half covered. Later objects may hide some of them.
    """
    height, width = canvas.shape[:2]
    reach = placement.radius + SHADOW_MARGIN
    # The window may reach over the picture's edge: the shadow needs the outline there, too.
    first_x, first_y = int(np.floor(placement.x - reach)), int(np.floor(placement.y - reach))
    x: FloatArray = np.arange(first_x, int(placement.x + reach) + 1, dtype=np.float64)[None, :] + 0.5
    y: FloatArray = np.arange(first_y, int(placement.y + reach) + 1, dtype=np.float64)[:, None] + 0.5
    distance = signed_distance(placement, x, y)
    left, right = max(first_x, 0), min(first_x + x.size, width)
    top, bottom = max(first_y, 0), min(first_y + y.size, height)
    inside = (slice(top - first_y, bottom - first_y), slice(left - first_x, right - first_x))
    window = canvas[top:bottom, left:right]

    # The shadow is the outline moved down by whole pixels, with a soft edge; np.roll wraps only far-away distances.
    shift = (2 + choose(random, 2), choose(random, 5) - 2)
    shadow = np.clip(0.5 - np.roll(distance, shift, axis=(0, 1))[inside] / 4, 0, 1) * uniform(
        random, 0.15, 0.4
    )
    window *= (1 - shadow)[..., None]
    distance, x, y = distance[inside], x[:, inside[1]], y[inside[0]]

    light = uniform(random, 0, 2 * np.pi)
    across = (np.cos(light) * (x - placement.x) + np.sin(light) * (y - placement.y)) / placement.radius
    shade = 1 + uniform(random, 0.0, 0.14) * across
    texture = choose(random, 3)
    if texture == 1:
        shade = shade + 0.07 * _wave(height, random, 4, 8)[top:bottom, left:right]
    elif texture == 2:
        shade = shade + 0.12 * (random.random(shade.shape) - 0.5)
    # A darker rim, as real things have towards their outline.
    shade = shade - uniform(random, 0.0, 0.2) * np.clip(1 + distance / 3, 0, 1)
    colour = np.asarray(COLOURS[placement.colour]) + (random.random(3) - 0.5) * 0.08
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    window[:] = window * (1 - cover) + np.clip(colour * shade[..., None], 0, 1) * cover

    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = distance <= 0
    return mask
