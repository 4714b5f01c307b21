"""Harder kinds of generated scenes: each changes one thing, so that a fall in a score has a name."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from dcam_plugins.scenes.rendering import choose
from dcam_plugins.scenes.rules import SceneRules
from dcam_plugins.scenes.scenes import Scene, Scenes

__all__ = ["AbsentScenes", "ClutteredScenes", "OccludedScenes", "SmallScenes", "TwinScenes"]


class ClutteredScenes(Scenes):
    """Scenes strewn with short strokes in the objects' colours: a map must not light up for colour alone.

    Args:
        split: See `Scenes`.
        length: See `Scenes`.
        size: See `Scenes`.
    """

    kind: ClassVar[str] = "clutter"
    rules: ClassVar[SceneRules] = SceneRules(strokes=60, seed=1)


class OccludedScenes(Scenes):
    """Scenes in which an object hides a third to two thirds of another: masks are of what is visible.

    Args:
        split: See `Scenes`.
        length: See `Scenes`.
        size: See `Scenes`.
    """

    kind: ClassVar[str] = "occlusion"
    rules: ClassVar[SceneRules] = SceneRules(
        count_weights=(0.0, 0.4, 0.3, 0.3),
        max_radius=(0.23, 0.23, 0.21, 0.19),
        min_distance=0.3,
        min_visible=0.35,
        max_least_visible=0.67,
        seed=2,
    )


class SmallScenes(Scenes):
    """Scenes with objects half as large as usual: one covers about one per cent of the picture.

    Args:
        split: See `Scenes`.
        length: See `Scenes`.
        size: See `Scenes`.
    """

    kind: ClassVar[str] = "small"
    rules: ClassVar[SceneRules] = SceneRules(min_radius=0.055, max_radius=(0.08,) * 4, seed=3)


class TwinScenes(Scenes):
    """Scenes with two objects of the same shape in different colours: a map must tell which of them is meant.

    The word for the shape fits both; its occurrence in the caption, or its colour, tells which one.

    Args:
        split: See `Scenes`.
        length: See `Scenes`.
        size: See `Scenes`.
    """

    kind: ClassVar[str] = "twins"
    rules: ClassVar[SceneRules] = SceneRules(count_weights=(0.0, 0.4, 0.3, 0.3), twins=2, seed=4)


class AbsentScenes(Scenes):
    """Scenes that are asked for a shape that they do not show: a word for it has no evidence in the picture.

    `absent` names the shape, and the prompt asks for it: "is there a star ?". The caption says what is there.

    Args:
        split: See `Scenes`.
        length: See `Scenes`.
        size: See `Scenes`.
    """

    kind: ClassVar[str] = "absent"
    rules: ClassVar[SceneRules] = SceneRules(seed=5)

    def __getitem__(self, index: int) -> Scene:
        """See `Scenes.__getitem__`."""
        scene = super().__getitem__(index)
        there = {each.shape for each in scene.objects}
        others = [shape for shape in self.shapes if shape not in there]
        # The scene has drawn as many numbers as it needed; what is asked for is drawn apart from them.
        asked = others[choose(self._random(index, 1), len(others))]
        return replace(scene, prompt=f"is there a {asked} ?", absent=(asked,))
