"""Harder kinds of scenes: each differs in what its name says, and the plain ones stay what they were."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

import dcam_plugins.scenes.scenes as scenes_module
from dcam_plugins.scenes import (
    AbsentScenes,
    ClutteredScenes,
    OccludedScenes,
    Scenes,
    SmallScenes,
    TwinScenes,
    describe,
)
from dcam_plugins.scenes.rendering import COLOURS, Placement, draw_object, draw_stroke

KINDS = (AbsentScenes, ClutteredScenes, OccludedScenes, SmallScenes, TwinScenes)
COUNT = 40


@pytest.mark.parametrize(
    ("split", "digest"),
    [("train", "ecc106b78b8b9406"), ("validation", "d82959f9969cf399"), ("test", "731c9e518009179c")],
)
def test_the_plain_scenes_are_those_that_models_were_trained_on(split, digest):
    captions = "".join(scene.caption for scene in Scenes(split, COUNT))
    assert hashlib.sha256(captions.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_always_the_same_and_its_own(kind):
    scenes = kind("test", 6)
    keys = [scene.key for scene in scenes]
    assert keys[3] == f"{kind.kind}-test-96-000003"
    for index in (5, 0, 3):
        again = kind("test", 100)[index]
        assert np.array_equal(again.image, scenes[index].image)
        assert (again.caption, again.prompt, again.absent) == (
            scenes[index].caption, scenes[index].prompt, scenes[index].absent
        )  # fmt: skip
    plain = {scene.image.tobytes() for scene in Scenes("test", 6)}
    assert plain.isdisjoint(scene.image.tobytes() for scene in scenes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_what_scenes_promise(kind):
    for scene in kind("validation", COUNT):
        assert scene.caption == describe([thing.name for thing in scene.objects])
        assert len({thing.name for thing in scene.objects}) == len(scene.objects)
        masks = torch.stack([thing.mask for thing in scene.objects])
        assert masks.sum(dim=0).max() == 1
        words, values = list(COLOURS), np.array(list(COLOURS.values()))
        for thing in scene.objects:
            pixel = np.asarray(scene.image)[thing.mask.numpy()].mean(axis=0) / 255
            assert words[(values @ pixel / np.linalg.norm(values, axis=1)).argmax()] == thing.colour


def test_small_objects_are_small():
    usual = [float(thing.mask.float().mean()) for scene in Scenes("test", COUNT) for thing in scene.objects]
    small = [
        float(thing.mask.float().mean()) for scene in SmallScenes("test", COUNT) for thing in scene.objects
    ]
    assert max(small) < 0.025
    assert np.mean(small) < np.mean(usual) / 4
    # At the smallest size allowed there is still something to see of each.
    assert all(thing.mask.any() for scene in SmallScenes("test", 10, size=32) for thing in scene.objects)


def test_twins_share_a_shape():
    for scene in TwinScenes("test", COUNT):
        shapes = [thing.shape for thing in scene.objects]
        assert max(shapes.count(shape) for shape in shapes) >= 2
    assert any(
        len({thing.shape for thing in scene.objects}) == len(scene.objects) > 1
        for scene in Scenes("test", COUNT)
    )


def test_occluded_scenes_hide_something():
    draws = []

    def watched(canvas, placement, random):
        mask = draw_object(canvas, placement, random)
        draws.append((placement, mask))
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_module, "draw_object", watched)
        for index in range(15):
            draws.clear()
            scene = OccludedScenes("test", COUNT)[index]
            # The last draws are those of the attempt that was kept.
            kept = {(each.shape, each.colour): mask for each, mask in draws[-len(scene.objects) :]}
            shares = [
                float(thing.mask.sum()) / kept[thing.shape, thing.colour].sum() for thing in scene.objects
            ]
            assert 0.35 <= min(shares) <= 0.67


def test_clutter_has_no_name_and_lies_behind():
    assert [len(scene.absent) for scene in ClutteredScenes("test", 3)] == [0, 0, 0]
    canvas = np.full((96, 96, 3), 0.5)
    draw_stroke(canvas, np.random.default_rng(0))
    touched = np.abs(canvas - 0.5).max(axis=-1) > 1e-9
    assert 4 < touched.sum() < 96
    behind = draw_object(
        canvas, Placement("square", "red", 48.0, 48.0, 40.0, 0.0, False), np.random.default_rng(1)
    )
    alone = np.full((96, 96, 3), 0.5)
    draw_object(alone, Placement("square", "red", 48.0, 48.0, 40.0, 0.0, False), np.random.default_rng(1))
    assert np.allclose(canvas[behind & ~_rim(behind)], alone[behind & ~_rim(behind)])


def _rim(mask):
    inner = mask.copy()
    for axis in (0, 1):
        for shift in (1, -1):
            inner &= np.roll(mask, shift, axis)
    return mask & ~inner


def test_what_is_asked_for_is_absent():
    asked = set()
    for scene in AbsentScenes("test", COUNT):
        (name,) = scene.absent
        assert scene.prompt == f"is there a {name} ?"
        assert name not in {thing.shape for thing in scene.objects}
        assert name not in scene.caption
        asked.add(name)
    assert len(asked) > 8
