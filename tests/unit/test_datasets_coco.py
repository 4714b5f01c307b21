"""COCO and what is laid out like it: the right masks, and a reason for all that is missing."""

from __future__ import annotations

import json
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from support.dataset_folders import (
    CATEGORIES,
    SQUARE,
    annotation,
    coco,
    coco_caption,
    coco_caption_labels,
    save_json,
    save_labels,
    save_picture,
)

from dcam_core.errors import DatasetError, PictureError
from dcam_plugins.datasets import CocoCaption, CocoCaptionLabels, CocoFolder
from dcam_plugins.datasets._masks import UnusableMaskError, decode, run_lengths
from dcam_plugins.datasets.names import COCO_SYNONYMS, LABELS
from dcam_plugins.scenes import Scenes, write_coco


def reasons(left_out):
    return Counter(each.why for each in left_out)


# -- masks ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning:pycocotools")
def test_outlines_and_run_lengths_are_decoded_as_pycocotools_does_it():
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(number) for number in random.integers(5, 60, size=2))
        mask = np.asfortranarray(
            random.random((height, width)) < random.choice([0.02, 0.5, 0.98]), dtype=np.uint8
        )
        mask[0, 0] = 1
        compressed = coco_masks.encode(mask)
        counts = compressed["counts"].decode()
        assert np.array_equal(decode({"size": [height, width], "counts": counts}, height, width), mask)
        assert np.array_equal(
            decode({"size": [height, width], "counts": run_lengths(counts)}, height, width), mask
        )
        polygons = [list(map(float, random.random(8) * width)), list(map(float, random.random(6) * height))]
        expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, height, width)))
        assert np.array_equal(decode(polygons, height, width), expected)


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        (None, "no outline"),
        ([], "no outline"),
        ([[1, 2, 3, 4]], "outline is broken"),
        ([[1, 2, 3, 4, 5]], "outline is broken"),
        ([5], "outline is broken"),
        ([[1, 2, 3, 4, 5, 1e18]], "far outside"),
        ([[1, 2, 3, 4, 5, float("nan")]], "far outside"),
        ([[1, 2, 3, 4, 5, "6"]], "no numbers"),
        ([[1, 1, 1, 1, 1, 1]], "is empty"),
        ("many", "is a str"),
        ({"size": [8, 10], "counts": [80]}, "is empty"),
        ({"size": [8, 10], "counts": [10, 5]}, "do not fill"),
        ({"size": [8, 10], "counts": [10, 5, 900]}, "do not fill"),
        ({"size": [8, 10], "counts": [-5, 85]}, "run lengths are broken"),
        ({"size": [8, 10], "counts": ["a"]}, "run lengths are broken"),
        ({"size": [8, 10], "counts": ""}, "do not fill"),
        ({"size": [8, 10], "counts": "31"}, "do not fill"),
        ({"size": [8, 10], "counts": "o"}, "run lengths are broken"),
        ({"size": [8, 10], "counts": "hello ~"}, "run lengths are broken"),
        ({"size": [8, 10]}, "run lengths are broken"),
        ({"size": [10, 8], "counts": [0, 80]}, "another size"),
    ],
)
def test_a_mask_that_is_none_says_why(segmentation, why):
    with pytest.raises(UnusableMaskError, match=why):
        decode(segmentation, height=8, width=10)


# -- any folder ----------------------------------------------------------------------------------------------


def test_a_folder_gives_pictures_names_and_masks(tmp_path):
    dataset = CocoFolder(coco(tmp_path))
    first, second = dataset
    assert (first.key, second.key, first.prompt) == ("42", "7", "describe the picture")
    dog, crowd = first.objects
    assert (dog.words, int(dog.mask.sum()), bool(dog.mask[1, 2])) == (("dog", "puppy", "pup"), 16, True)
    assert crowd.words[:3] == ("person", "man", "woman")
    # Run lengths go down the columns: columns 1 and 2.
    assert torch.equal(crowd.mask.any(dim=0).nonzero().flatten(), torch.tensor([1, 2]))
    assert second.objects[0].words == ("hot dog", "hotdog")
    assert [names[0] for names in dataset.categories] == ["dog", "hot dog", "person"]
    assert (dataset.left_out, first.left_out) == ((), [])


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning:pycocotools")
def test_what_pycocotools_reads_is_the_same(tmp_path):
    """Scenes written by one tool, read by two: an independent witness."""
    written = write_coco(Scenes("test", 6, size=64), tmp_path)
    theirs, ours = COCO(written / "annotations/instances_test.json"), CocoFolder(written, synonyms={})
    for sample in ours:
        notes = theirs.loadAnns(theirs.getAnnIds(imgIds=int(sample.key)))
        assert [each.words for each in sample.objects] == [
            (theirs.cats[note["category_id"]]["name"],) for note in notes
        ]
        for each, note in zip(sample.objects, notes, strict=True):
            assert np.array_equal(each.mask, theirs.annToMask(note))


def test_what_cannot_be_used_is_left_out_with_a_reason(tmp_path):
    size = {"width": 10, "height": 8}
    images = [
        {"id": 1, "file_name": "a.png", **size}, {"id": 2, "file_name": "gone.png", **size},
        {"id": 1, "file_name": "a.png", **size}, {"file_name": "b.png"}, "c.png"
    ]  # fmt: skip
    notes = [
        annotation(10, 1, 18, [SQUARE]),
        annotation(11, 1, 18, []),
        annotation(12, 1, 18, [[3, 3, 3, 3, 3, 3]]),
        annotation(13, 1, 18, {"size": [8, 10], "counts": "0"}),
        annotation(14, 1, 555, [SQUARE]),
        annotation(15, 1, [1], [SQUARE]),
        annotation(16, 2, 18, [SQUARE]),
        {"id": 17},
        None,
    ]
    coco(tmp_path, images=images, annotations=notes)
    (tmp_path / "val2017/gone.png").unlink()
    dataset = CocoFolder(tmp_path)
    assert len(dataset) == 1
    assert reasons(dataset.left_out) == {
        "its file is missing": 1, "an earlier image has the same id": 1, "it has no id or no file name": 2,
        "its image is left out or unknown": 1, "it belongs to no image": 2
    }  # fmt: skip
    assert str(dataset.left_out[-3]) == "annotation 16 of image 2: its image is left out or unknown"
    sample = dataset[0]
    assert len(sample.objects) == 1
    assert [str(each) for each in sample.left_out] == [
        "annotation 11 (dog): it has no outline and no mask",
        "annotation 12 (dog): its mask is empty",
        "annotation 13 (dog): its run lengths do not fill the picture",
        "annotation 14 (category 555): its category is not among the categories",
        "annotation 15 (category [1]): its category is not among the categories",
    ]
    # The picture shows them, though nobody knows where; of what is in no category the name is unknown.
    assert [each.words for each in sample.left_out] == [("dog", "puppy", "pup")] * 3 + [()] * 2
    # Nothing is dropped in silence: what is given and what is left out add up.
    assert len(sample.objects) + len(sample.left_out) + 3 == len(notes)


def test_a_picture_without_annotations_is_kept(tmp_path):
    assert [sample.objects for sample in CocoFolder(coco(tmp_path, annotations=[]))] == [[], []]


@pytest.mark.parametrize(
    ("folder", "file", "split"),
    [
        ("images/val2017", "annotations/instances_val2017.json", None),
        ("images", "annotations/instances_val2017.json", "val2017"),
        ("train", "train/_annotations.coco.json", None),
        ("train", "train/_annotations.coco.json", "train"),
        (".", "result.json", None),
    ],
)
def test_other_tools_lay_it_out_otherwise(tmp_path, folder, file, split):
    coco(tmp_path, folder=folder)
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / "moved")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / file)
    assert len(CocoFolder(tmp_path, split=split)) == 2


def test_files_may_be_named_by_their_number_and_elsewhere(tmp_path):
    coco(tmp_path, images=[{"id": 42}, {"id": 7}])
    for number in (42, 7):
        save_picture(tmp_path / f"elsewhere/{number:012d}.jpg")
    assert len(CocoFolder(tmp_path, images="elsewhere")) == 2
    with pytest.raises(
        DatasetError, match=r"none of 2 pictures was found: '000000000042.jpg'.*give their folder"
    ):
        CocoFolder(tmp_path)


def test_names_are_written_as_people_write_them(tmp_path):
    coco(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": 18, "name": "Traffic_Light"}, {"id": 58, "name": "bat_(animal)", "synonyms": ["flying_fox"]},
        {"id": 1, "name": "PERSON", "synonyms": None}
    ]  # fmt: skip
    save_json(path, content)
    assert list(CocoFolder(tmp_path, synonyms={"person": ["somebody"]}).categories) == [
        ("traffic light",), ("bat", "flying fox"), ("person", "somebody")
    ]  # fmt: skip
    for nonsense in ("flying fox", ["flying fox", 5]):
        content["categories"][1]["synonyms"] = nonsense
        save_json(path, content)
        with pytest.raises(DatasetError, match=r"synonyms of category 'bat_\(animal\)' are .*list of texts"):
            CocoFolder(tmp_path)


def test_several_parts_are_not_chosen_between_in_silence(tmp_path):
    coco(coco(tmp_path), split="train2017")
    with pytest.raises(DatasetError, match=r"several JSON files, .*instances_train2017.json, .*by split"):
        CocoFolder(tmp_path)
    assert len(CocoFolder(tmp_path, split="val2017")) == 2
    with pytest.raises(
        DatasetError, match=r"no annotations of split 'test': looked for annotations/instances_test"
    ):
        CocoFolder(tmp_path, split="test")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected a dict"),
        ('{"images": []}', "no list 'categories'"),
        ('{"categories": [{"id": 1}]}', "no list 'categories'"),
        ('{"categories": [], "annotations": []}', "no list 'images'"),
        ('{"categories": [], "images": []}', "no list 'annotations'"),
        ('{"categories": [], "images": [], "annotations": []}', "no picture that can be used: it lists none"),
    ],
)
def test_a_file_that_is_no_coco_is_refused_in_one_line(tmp_path, content, found):
    (tmp_path / "all.json").write_text(content)
    with pytest.raises(DatasetError, match=found) as caught:
        CocoFolder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is no folder"):
        CocoFolder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no JSON file"):
        CocoFolder(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        CocoFolder(tmp_path, annotations="mine.json")


def test_a_broken_picture_and_one_of_another_size_are_errors_of_their_sample(tmp_path):
    dataset = CocoFolder(coco(tmp_path))
    (tmp_path / "val2017/000000000042.jpg").write_text("no picture")
    save_picture(tmp_path / "val2017/000000000007.jpg", size=(20, 8))
    with pytest.raises(PictureError, match=r"000000000042.jpg is not a picture"):
        dataset[0]
    with pytest.raises(DatasetError, match="has 20x8 pixels, but its annotations are for 10x8"):
        dataset[1]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_turn_with_the_picture(tmp_path, orientation):
    """Annotated on the stored pixels: the mask stays on what it was drawn around."""
    coco(tmp_path, images=[{"id": 1, "width": 10, "height": 8}], annotations=[annotation(1, 1, 18, [SQUARE])])
    pixels = np.zeros((8, 10, 3), np.uint8)
    pixels[1:5, 2:6] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/000000000001.jpg", format="PNG", exif=exif)
    sample = CocoFolder(tmp_path)[0]
    assert sample.image.size == (8, 10)
    assert np.array_equal(np.asarray(sample.image)[..., 0] > 127, sample.objects[0].mask)


def test_masks_of_the_upright_picture_stay(tmp_path):
    coco(tmp_path, images=[{"id": 1, "width": 8, "height": 10}], annotations=[annotation(1, 1, 18, [SQUARE])])
    exif = Image.Exif()
    exif[0x0112] = 6
    save_picture(tmp_path / "images/000000000001.jpg", exif=exif)
    sample = CocoFolder(tmp_path)[0]
    assert sample.image.size == (8, 10)
    assert sample.objects[0].mask[1:5, 2:6].all()


def test_fifty_thousand_annotations_are_no_wait(tmp_path):
    """Masks are not decoded before they are asked for."""
    count = 50_000
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 10, "height": 8} for number in range(500)]
    notes = [annotation(number, number % 500, 18, [SQUARE] * 10) for number in range(count)]
    save_json(tmp_path / "instances.json", {"images": images, "annotations": notes, "categories": CATEGORIES})
    for image in images:
        (tmp_path / image["file_name"]).touch()
    save_picture(tmp_path / "499.jpg")
    start = time.perf_counter()
    json.loads((tmp_path / "instances.json").read_bytes())
    reading = time.perf_counter() - start
    dataset = CocoFolder(tmp_path)
    ready = time.perf_counter() - start - reading
    assert len(dataset[499].objects) == 100
    # To read the file takes most of the time; a machine with other work may take a little longer.
    assert ready < 2 * reading + 2, f"{ready:.1f} s, {reading:.1f} s of it to read the file"
    assert len(pickle.loads(pickle.dumps(dataset))) == 500


# -- captions ------------------------------------------------------------------------------------------------


def test_captions_come_with_their_pictures(tmp_path):
    dataset = CocoCaption(coco_caption(tmp_path))
    assert [sample.caption for sample in dataset] == ["a dog and two people", "a hot dog on a plate"]
    assert dataset[0].prompt == "Write a one-sentence caption for this image:"
    assert len(dataset[0].objects) == 2


def test_the_small_part_of_2014_takes_captions_and_pictures_of_the_whole(tmp_path):
    coco_caption(tmp_path, split="val2014")
    content = json.loads((tmp_path / "annotations/instances_val2014.json").read_text())
    save_json(
        tmp_path / "annotations/instances_minival2014.json", {**content, "images": content["images"][1:]}
    )
    for number in (42, 7):
        save_picture(tmp_path / f"val2014/{number:012d}.jpg")
    small = CocoCaption(tmp_path, split="minival2014")
    assert [(sample.key, sample.caption) for sample in small] == [("7", "a hot dog on a plate")]
    # The annotations of the other picture are counted.
    assert reasons(small.left_out) == {"its image is left out or unknown": 2}


def test_captions_that_are_none_are_left_out(tmp_path):
    coco_caption(tmp_path)
    path = tmp_path / "annotations/captions_val2017.json"
    save_json(path, {"annotations": [{"image_id": 42, "caption": "  "}, {"caption": "x"}, None]})
    dataset = CocoCaption(tmp_path)
    assert [sample.caption for sample in dataset] == [None, None]
    assert reasons(dataset.left_out) == {"it has no text or belongs to no image": 3}
    path.unlink()
    with pytest.raises(DatasetError, match=r"no captions: looked for annotations/captions_val2017\.json"):
        CocoCaption(tmp_path)


# -- label pictures ------------------------------------------------------------------------------------------


def test_label_pictures_give_an_object_per_class(tmp_path):
    first, second = CocoCaptionLabels(coco_caption_labels(tmp_path), split="minival2014")
    assert [(each.words[0], int(each.mask.sum())) for each in first.objects] == [("person", 16), ("dog", 16)]
    assert [each.words for each in second.objects] == [("ball", "sports ball", "soccer ball", "tennis ball")]
    assert [str(each) for each in second.left_out] == ["label 200: it has no name"]
    assert (first.caption, first.key) == ("a dog and two people", "42")


def test_a_palette_picture_keeps_its_numbers(tmp_path):
    coco_caption_labels(tmp_path)
    path = tmp_path / "seg_label/000000000042.png"
    with Image.open(path) as labels:
        palette = Image.fromarray(np.array(labels)).convert("P")
    palette.putpalette([value for index in range(256) for value in (255 - index, index // 2, 7)])
    palette.putdata(list(np.asarray(Image.open(path)).ravel()))
    palette.save(path)
    assert [each.words[0] for each in CocoCaptionLabels(tmp_path)[0].objects] == ["person", "dog"]


def test_missing_and_odd_label_pictures(tmp_path):
    coco_caption_labels(tmp_path)
    (tmp_path / "seg_label/000000000007.png").unlink()
    dataset = CocoCaptionLabels(tmp_path)
    assert [str(each) for each in dataset.left_out] == ["image 7: its label picture is missing"]
    save_picture(tmp_path / "seg_label/000000000042.png")
    with pytest.raises(DatasetError, match="has 3 channels"):
        dataset[0]
    save_labels(tmp_path / "seg_label/000000000042.png", {}, size=(5, 5))
    with pytest.raises(DatasetError, match="has 10x8 pixels, but its annotations are for 5x5"):
        dataset[0]


def test_the_numbers_are_coco_s():
    known = {1: "person", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 27: "backpack", 37: "ball",
             46: "glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv", 84: "book"}  # fmt: skip
    assert {number: LABELS[number] for number in known} == known
    assert (len(LABELS), max(LABELS)) == (80, 90)


def test_synonyms_belong_to_classes_and_mean_one():
    names = set(LABELS.values()) | {"sports ball", "wine glass"}
    assert set(COCO_SYNONYMS) <= names
    said = [word for words in COCO_SYNONYMS.values() for word in words]
    assert [word for word, count in Counter(said).items() if count > 1] == []
    assert set(said) & (names - {"ball", "glass"}) == set()
