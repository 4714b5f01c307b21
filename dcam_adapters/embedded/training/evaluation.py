"""What a model that was trained on scenes gets right."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from PIL.Image import Image

from dcam_adapters.embedded.training.conversations import KINDS, Conversations
from dcam_adapters.embedded.training.scenes import SceneLike
from dcam_core.adapter import Adapter
from dcam_core.probing.targets import read_answer
from dcam_core.probing.untouched import untouched

__all__ = ["accuracy", "answer", "named_objects"]

_OBJECT = re.compile(r"\ban? (\w+) (\w+)")


def answer(adapter: Adapter, picture: Image, prompt: str) -> str:
    """The model's answer with its own sampler settings."""
    with torch.no_grad(), untouched(adapter.model):
        run = adapter.denoise(adapter.prepare(picture, prompt), adapter.default_sampler)
    return read_answer(run.answer_ids, adapter.tokenizer).text


def named_objects(caption: str) -> list[tuple[str, str]]:
    """The (colour, shape) pairs that a caption names, in its order."""
    return _OBJECT.findall(caption)


def accuracy(
    adapter: Adapter, scenes: Iterable[SceneLike], conversations: Conversations, seed: int = 0
) -> dict[str, float]:
    """Share of right answers per kind of prompt, each asked once of every scene.

    Args:
        adapter: the model.
        scenes: scenes that it was not trained on.
        conversations: the prompts and their right answers.
        seed: seed of what is asked.

    Returns:
        For every kind of prompt the share of exact answers; for `is_there` also separately for shapes that are
        present and absent, since always saying the same is right half the time; and as "objects" the share of
        objects whose colour and shape the description names, at the place in the order where they belong.
    """
    right: dict[str, list[float]] = defaultdict(list)
    random = np.random.default_rng(seed)
    for scene in scenes:
        objects = [(thing.shape, thing.colour) for thing in scene.objects]
        for kind in KINDS:
            asked = getattr(conversations, kind)(objects, random)
            if asked is None:
                continue
            prompt, wanted = asked
            said = answer(adapter, scene.image, prompt)
            right[kind].append(said == wanted)
            if kind == "is_there":
                right["is_there_present" if wanted == "yes" else "is_there_absent"].append(said == wanted)
            if kind == "describe":
                named = named_objects(said)
                truth = [(colour, shape) for shape, colour in objects]
                right["objects"] += [
                    place < len(named) and named[place] == one for place, one in enumerate(truth)
                ]
    return {kind: float(np.mean(values)) for kind, values in right.items()}
