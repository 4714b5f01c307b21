"""What an embedded model says about generated scenes, and which objects it names rightly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dcam_adapters.embedded.training.conversations import DESCRIBE
from dcam_core import Adapter, Inputs, Trajectory
from dcam_core.probing.targets import Answer, Target, read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_plugins.scenes import Scene, Scenes

__all__ = ["Named", "SceneAnswer", "answers"]


@dataclass(frozen=True, eq=False)
class Named:
    """A correctly named object: its word in the answer, and where it is."""

    target: Target
    mask: Tensor


@dataclass(frozen=True, eq=False)
class SceneAnswer:
    """One scene, by its index in the split, and the model's answer to it."""

    index: int
    scene: Scene
    picture: Image.Image
    inputs: Inputs
    trajectory: Trajectory
    answer: Answer
    named: tuple[Named, ...]

    @property
    def masks(self) -> Tensor:
        """[T, H, W] bool, masks of the named objects."""
        return torch.stack([named.mask for named in self.named])


def answers(model: Adapter, split: str, count: int, *, first: int = 0) -> Iterator[SceneAnswer]:
    """Let the model describe scenes `first` to `first + count - 1` of a split, with its own sampler."""
    scenes = Scenes(split, first + count)
    for index in range(first, first + count):
        scene = scenes[index]
        picture = scene.image
        with torch.no_grad(), untouched(model.model):
            inputs = model.prepare(picture, DESCRIBE[0])
            trajectory = model.denoise(inputs, model.default_sampler)
        answer = read_answer(trajectory.answer_ids, model.tokenizer)
        yield SceneAnswer(index, scene, picture, inputs, trajectory, answer, _named(scene, answer))


def _named(scene: Scene, answer: Answer) -> tuple[Named, ...]:
    """Objects whose colour and shape stand side by side in the answer; the shape word is the target.

    No two objects of a scene share colour and shape, so a pair names one object.
    """
    words = [word.text.casefold() for word in answer.words]
    found = []
    for thing in scene.objects:
        pairs = [i for i in range(len(words) - 1) if (words[i], words[i + 1]) == (thing.colour, thing.shape)]
        if pairs:
            position = answer.words[pairs[0] + 1].positions[0]
            found.append(Named(select_targets(answer, [position])[0], thing.mask))
    return tuple(found)
