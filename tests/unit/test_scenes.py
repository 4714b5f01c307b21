"""Generated scenes: always the same, with exact masks, in an order that leaves no doubt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dcam_core.errors import UsageError
from dcam_plugins.scenes import SceneError, Scenes, describe, write_coco
from dcam_plugins.scenes.coco import run_lengths
from dcam_plugins.scenes.rendering import COLOURS, Placement, draw_object, signed_distance
from dcam_plugins.scenes.shapes import OUTLINES, polygon

COUNT = 60


@pytest.fixture(scope="module")
def scenes():
    return Scenes("train", COUNT)


def test_a_scene_depends_on_split_and_index_alone(scenes):
    backwards = [Scenes("train", 1000)[index] for index in reversed(range(5))][::-1]
    for index, again in enumerate(backwards):
        assert np.array_equal(scenes[index].image, again.image)
        assert scenes[index].caption == again.caption


def test_splits_share_no_picture():
    pictures = [
        scene.image.tobytes() for split in ("train", "validation", "test") for scene in Scenes(split, 20)
    ]
    assert len(set(pictures)) == len(pictures)


def test_the_size_is_free():
    scene = Scenes("validation", 1, size=160)[0]
    assert (scene.image.mode, scene.image.size) == ("RGB", (160, 160))
    assert all(thing.mask.shape == (160, 160) for thing in scene.objects)


def test_a_scene_is_a_sample_whose_objects_have_names_of_their_own(scenes):
    scene = scenes[7]
    assert (scene.key, scene.prompt) == ("train-96-000007", "describe the picture")
    assert [thing.words for thing in scene.objects] == [
        (f"{thing.colour} {thing.shape}", thing.shape) for thing in scene.objects
    ]
    assert all(thing.words[0] in scene.caption for thing in scene.objects)


def test_captions_list_the_objects_from_left_to_right(scenes):
    for scene in scenes:
        assert scene.caption == describe([thing.name for thing in scene.objects])
        # Occlusion moves the middle of what is visible, but never past a neighbour's.
        middles = [(thing.box[0] + thing.box[2]) / 2 for thing in scene.objects]
        assert all(np.diff(middles) > -Scenes.rules.min_order_gap * 96)
    captions = {1: "an orange fish", 2: "an orange fish and a red star"}
    assert describe(["orange fish"]) == captions[1]
    assert describe(["orange fish", "red star"]) == captions[2]
    assert describe(["red star", "blue ring", "cyan moon"]) == "a red star , a blue ring and a cyan moon"


def test_no_two_objects_have_one_name_and_every_class_occurs(scenes):
    seen = set()
    for scene in scenes:
        names = [thing.name for thing in scene.objects]
        assert len(set(names)) == len(names)
        seen.update((thing.shape, thing.colour) for thing in scene.objects)
    assert {shape for shape, _ in seen} == set(Scenes.shapes)
    assert {colour for _, colour in seen} == set(Scenes.colours)


def test_masks_are_disjoint_and_fill_their_boxes(scenes):
    for scene in scenes:
        masks = torch.stack([thing.mask for thing in scene.objects])
        assert masks.sum(dim=0).max() == 1
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            inside = torch.zeros_like(thing.mask)
            inside[y0:y1, x0:x1] = True
            assert not (thing.mask & ~inside).any()
            assert thing.mask[y0].any()
            assert thing.mask[y1 - 1].any()
            assert thing.mask[:, x0].any()
            assert thing.mask[:, x1 - 1].any()


def test_masks_lie_on_pixels_of_their_colour(scenes):
    """The pictures are an independent witness: pixels of a mask look like its colour word."""
    words, values = list(COLOURS), np.array(list(COLOURS.values()))
    for scene in scenes:
        for thing in scene.objects:
            # Brightness varies by light, texture and rim, so the direction of the colour decides.
            pixel = np.asarray(scene.image)[thing.mask.numpy()].mean(axis=0) / 255
            likeness = values @ pixel / np.linalg.norm(values, axis=1)
            assert words[likeness.argmax()] == thing.colour


@pytest.mark.parametrize("shape", OUTLINES)
def test_outlines_reach_about_one_unit_and_measure_distance(shape):
    at = np.linspace(-1.3, 1.3, 261)
    distance = OUTLINES[shape](at[None, :] + np.zeros((261, 1)), at[:, None] + np.zeros((1, 261)))
    radius = np.hypot(at[None, :], at[:, None])
    assert (distance[radius > 1.2] > 0).all()
    assert 0.15 < (distance <= 0).mean() * 2.6**2 / np.pi < 1
    # A distance grows by no more than one's step.
    assert np.abs(np.diff(distance, axis=1)).max() <= 0.01 * 1.5


def test_polygon_distance_agrees_with_the_formula_for_a_square():
    at = np.linspace(-2, 2, 41)
    x, y = np.meshgrid(at, at)
    beyond = np.maximum(np.abs(x) - 1, np.abs(y) - 1)
    outside = np.hypot(np.maximum(np.abs(x) - 1, 0), np.maximum(np.abs(y) - 1, 0))
    expected = np.where(beyond > 0, outside, beyond)
    assert np.abs(polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)])(x, y) - expected).max() < 1e-12


def test_an_object_at_the_edge_casts_no_shadow_on_the_other_side():
    canvas = np.full((96, 96, 3), 0.5)
    draw_object(canvas, Placement("square", "red", 80.0, 80.0, 15.9, 0.0, False), np.random.default_rng(0))
    y, x = np.argwhere(np.abs(canvas - 0.5).max(axis=-1) > 1e-9).T
    placed = Placement("square", "red", 80.0, 80.0, 15.9, 0.0, False)
    far = signed_distance(placed, x[None, :] + 0.5, y[None, :] + 0.5)
    assert far.max() < 6


def test_the_mask_is_where_the_outline_covers_half_a_pixel():
    placed = Placement("circle", "blue", 40.0, 30.0, 10.0, 0.3, True)
    mask = draw_object(np.zeros((64, 64, 3)), placed, np.random.default_rng(1))
    y, x = np.mgrid[:64, :64] + 0.5
    assert np.array_equal(mask, np.hypot(x - 40, y - 30) <= 9.2)


def test_run_lengths_are_coco_s():
    mask = np.array([[True, False], [True, True], [False, True]])
    assert run_lengths(mask) == [0, 2, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


def _decoded(counts: list[int], height: int, width: int) -> np.ndarray:
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(width, height).T


def test_the_coco_folder_holds_the_scenes(tmp_path, scenes):
    few = Scenes("test", 4, size=64)
    folder = write_coco(few, tmp_path / "coco")
    instances = json.loads((folder / "annotations/instances_test.json").read_text())
    captions = json.loads((folder / "annotations/captions_test.json").read_text())
    words = {category["id"]: category["name"] for category in instances["categories"]}
    assert len({note["id"] for note in instances["annotations"]}) == len(instances["annotations"])
    for picture, scene, caption in zip(instances["images"], few, captions["annotations"], strict=True):
        with Image.open(folder / "images" / picture["file_name"]) as image:
            assert np.array_equal(np.asarray(image), scene.image)
        assert (caption["image_id"], caption["caption"]) == (picture["id"], scene.caption)
        notes = [note for note in instances["annotations"] if note["image_id"] == picture["id"]]
        for note, thing in zip(notes, scene.objects, strict=True):
            assert (words[note["category_id"]], note["colour"]) == (thing.shape, thing.colour)
            height, width = note["segmentation"]["size"]
            mask = _decoded(note["segmentation"]["counts"], height, width)
            assert np.array_equal(mask, thing.mask)
            assert note["area"] == thing.mask.sum()
            x, y, w, h = note["bbox"]
            assert (x, y, x + w, y + h) == thing.box


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("holdout", 3), ["holdout", "train", "validation", "test"]),
        (("train", 0), ["length=0"]),
        (("train", 1, 16), ["size=16"]),
    ],
)
def test_scenes_that_cannot_be_are_refused_in_one_line(arguments, words):
    # The caller's mistake: on the command line the exit code is 2.
    with pytest.raises(UsageError) as caught:
        Scenes(*arguments)
    assert isinstance(caught.value, SceneError)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [-1, COUNT])
def test_an_index_outside_is_an_index_error(scenes, index):
    with pytest.raises(IndexError, match=f"scene {index} is asked for"):
        scenes[index]
