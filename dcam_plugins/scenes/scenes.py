"""Dataset of generated scenes: a few coloured shapes, the words for them, and their exact visible masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dcam_core.dataset import ExplanationDataset, Sample, SampleObject
from dcam_core.errors import UsageError
from dcam_plugins.scenes.rendering import (
    COLOURS,
    Placement,
    choose,
    draw_background,
    draw_object,
    draw_stroke,
    uniform,
)
from dcam_plugins.scenes.rules import SceneRules
from dcam_plugins.scenes.shapes import OUTLINES

__all__ = ["Scene", "SceneError", "SceneObject", "Scenes", "describe"]

SPLIT_SEEDS = MappingProxyType({"train": 101, "validation": 202, "test": 303})
"""Seed of every split: a scene is drawn from `(seed, index)`, so no two splits share one."""

PROMPT = "describe the picture"
"""What is asked about every scene; its caption is the right answer."""


class SceneError(UsageError):
    """Scenes were asked for that do not exist."""


@dataclass(frozen=True, eq=False)
class SceneObject(SampleObject):
    """One object of a scene: `words` are colour and shape, which no other object of the scene has, and the shape.

    Attributes:
        shape: Word for its class, such as `circle`.
        colour: Word for its colour, such as `red`.
        box: Visible extent `(x0, y0, x1, y1)` in pixels, far edges exclusive.
    """

    shape: str
    colour: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Colour and shape, such as `red circle`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, eq=False)
class Scene(Sample):
    """A picture and what is in it: all of it.

    Attributes:
        objects: From left to right, by the centre at which each was placed.
        caption: The objects in that order, such as `a red circle , a blue star and a green heart`.
    """

    objects: tuple[SceneObject, ...]
    caption: str


def describe(names: list[str]) -> str:
    """Caption that lists names in order: `a red circle , a blue star and a green heart`.

    Words and punctuation are separated by blanks, as the embedded models' word-level tokenizers have them.
    """
    phrases = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    if len(phrases) == 1:
        return phrases[0]
    return " , ".join(phrases[:-1]) + " and " + phrases[-1]


def _try_placements(size: int, count: int, rules: SceneRules, random: Generator) -> list[Placement] | None:
    """Places `count` different objects, or gives up when one finds no room."""
    shapes, colours = list(OUTLINES), list(COLOURS)
    placed: list[Placement] = []
    for _ in range(count):
        for _ in range(40):
            radius = uniform(random, rules.min_radius, rules.max_radius[count - 1]) * size
            x, y = uniform(random, radius, size - radius), uniform(random, radius, size - radius)
            shape, colour = shapes[choose(random, len(shapes))], colours[choose(random, len(colours))]
            if 0 < len(placed) < rules.twins:
                shape = placed[0].shape
            fits = all(
                (shape, colour) != (other.shape, other.colour)
                and abs(x - other.x) >= rules.min_order_gap * size
                and np.hypot(x - other.x, y - other.y) >= rules.min_distance * (radius + other.radius)
                for other in placed
            )
            if fits:
                break
        else:
            return None
        angle, mirrored = uniform(random, -0.25, 0.25), random.random() < 0.5
        placed.append(Placement(shape, colour, x, y, radius, angle, bool(mirrored)))
    return placed


def _draw(
    size: int, rules: SceneRules, random: Generator
) -> tuple[NDArray[np.uint8], list[tuple[Placement, NDArray[np.bool_]]]] | None:
    """One attempt at a scene: picture and visible masks, or nothing when too much or too little is hidden."""
    count = 1 + int(np.searchsorted(np.cumsum(rules.count_weights)[:-1], random.random(), side="right"))
    placements = _try_placements(size, count, rules, random)
    if placements is None:
        return None
    canvas = draw_background(size, random)
    for _ in range(rules.strokes):
        draw_stroke(canvas, random)
    visible: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    for placement in placements:
        mask = draw_object(canvas, placement, random)
        visible = [earlier & ~mask for earlier in visible]
        visible.append(mask)
        areas.append(int(mask.sum()))
    least = min(mask.sum() / area if area else 0.0 for mask, area in zip(visible, areas, strict=True))
    if not rules.min_visible <= least <= rules.max_least_visible:
        return None
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return image, sorted(zip(placements, visible, strict=True), key=lambda pair: pair[0].x)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _object(placement: Placement, mask: NDArray[np.bool_]) -> SceneObject:
    words = (f"{placement.colour} {placement.shape}", placement.shape)
    return SceneObject(words, torch.from_numpy(mask), placement.shape, placement.colour, _box(mask))


class Scenes(ExplanationDataset):
    """Scenes of one split, drawn when asked for and always the same.

    Subclasses are kinds of scenes that are harder; they set `rules`.

    Args:
        split: `train`, `validation` or `test`; what was trained on scenes is measured on the last.
        length: Number of scenes; the first scenes of a longer dataset are those of a shorter one.
        size: Side of the square pictures in pixels.

    Raises:
        SceneError: The split is unknown, or `length` or `size` is too small.
    """

    kind: ClassVar[str] = ""
    """What is special about these scenes; it stands in their keys."""
    rules: ClassVar[SceneRules] = SceneRules()
    shapes: ClassVar[tuple[str, ...]] = tuple(OUTLINES)
    colours: ClassVar[tuple[str, ...]] = tuple(COLOURS)

    def __init__(self, split: str = "test", length: int = 1000, size: int = 96) -> None:
        if split not in SPLIT_SEEDS:
            raise SceneError(
                f"no split {split!r} among the generated scenes: there are {', '.join(SPLIT_SEEDS)}"
            )
        if length < 1 or size < 32:
            raise SceneError(
                f"generated scenes need length >= 1 and size >= 32, and these have length={length} and size={size}: "
                "choose larger numbers"
            )
        self.split = split
        self.length = length
        self.size = size

    @property
    def categories(self) -> tuple[tuple[str, ...], ...]:
        """See `ExplanationDataset.categories`: the shapes."""
        return tuple((shape,) for shape in self.shapes)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(self.length))

    def __getitem__(self, index: int) -> Scene:
        """Draws scene `index`.

        Raises:
            IndexError: There is no scene of that index.
        """
        if not 0 <= index < self.length:
            raise IndexError(
                f"scene {index} is asked for, but split {self.split!r} has scenes 0 to {self.length - 1}"
            )
        random = self._random(index)
        drawn = None
        while drawn is None:
            drawn = _draw(self.size, self.rules, random)
        image, placed = drawn
        objects = tuple(_object(placement, mask) for placement, mask in placed)
        return Scene(
            key="-".join((*filter(None, (self.kind,)), self.split, str(self.size), f"{index:06d}")),
            image=Image.fromarray(image),
            prompt=PROMPT,
            objects=objects,
            caption=describe([each.name for each in objects]),
        )

    def _random(self, index: int, *apart: int) -> np.random.Generator:
        """The random numbers of a scene; with further numbers, others that have nothing to do with them."""
        kind = () if self.rules.seed is None else (self.rules.seed,)
        return np.random.default_rng([SPLIT_SEEDS[self.split], index, *kind, *apart])
