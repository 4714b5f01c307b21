"""GranDf, OpenPSG, and pictures with captions: formats as they are published."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from support.dataset_folders import anno, captioned, grandf, openpsg, save_json, save_labels, save_picture

from dcam_core.errors import DatasetError, PictureError
from dcam_plugins.datasets import Captions, GranDf, GranDfLabels, OpenPSG
from dcam_plugins.datasets.names import head_noun, spoken, without_panoptic_suffix

# -- GranDf as published -------------------------------------------------------------------------------------


def test_a_phrase_has_all_of_its_masks(tmp_path):
    (sample,) = GranDf(grandf(tmp_path))
    man, dogs = sample.objects
    assert man.words == ("man in a red shirt", "man")
    # Both run lengths count: the top of the first column and the bottom of the last.
    assert man.mask[:4, 0].all()
    assert man.mask[4:, 9].all()
    assert int(man.mask.sum()) == 8
    assert dogs.words == ("group of dogs", "dogs")
    assert [str(each) for each in sample.left_out] == ["phrase 'nobody': it has no outline and no mask"]
    assert sample.left_out[0].words == ("nobody",)
    assert (sample.key, sample.caption) == ("x.jpg", "A man in a red shirt holds a group of dogs.")


def test_the_prompt_does_not_give_the_answer_away(tmp_path):
    (sample,) = GranDf(grandf(tmp_path))
    assert sample.prompt == "Write a description for this image using around two sentences:"
    assert not any(word in sample.prompt for each in sample.objects for word in each.words)


def test_real_compressed_masks(tmp_path):
    """As the recorded annotation has them: compressed text and plain lists, side by side in one phrase."""
    masks = np.zeros((3, 37, 53), np.uint8)
    masks[0, 3:20, 5:9] = masks[1, 30:37, 40:53] = masks[2, 0, 0] = 1
    compressed = [coco_masks.encode(np.asfortranarray(mask)) for mask in masks[:2]]
    runs = [{"size": [37, 53], "counts": each["counts"].decode()} for each in compressed]
    runs.append({"size": [37, 53], "counts": [0, 1, 1960]})
    save_picture(tmp_path / "images/x.jpg", size=(53, 37))
    # Without width and height the picture itself says how large it is.
    entry = {"file_name": "x.jpg", "groundings": {"thing": {"token_positives": [[0, 3]], "rle_masks": runs}}}
    save_json(
        tmp_path / "mine.json", [entry, {**entry, "groundings": {"thing": {"rle_masks": [runs[0], 5]}}}]
    )
    first, second = GranDf(tmp_path, annotations="mine.json", images="images")
    assert np.array_equal(first.objects[0].mask, masks.any(axis=0))
    assert (first.key, second.key, first.caption) == ("x.jpg", "x.jpg#2", None)
    assert [str(each) for each in second.left_out] == ["mask 1 of phrase 'thing': its mask is a int"]
    # By its other mask the phrase is an object.
    assert (len(second.objects), second.left_out[0].words) == (1, ())


def test_what_grandf_lacks_is_said(tmp_path):
    dataset = GranDf(grandf(tmp_path))
    assert [str(each) for each in dataset.left_out] == ["gone.jpg: its picture is missing"]
    path = tmp_path / "annotations/train/GranDf_HA_GCG_train.json"
    save_json(path, [*json.loads(path.read_text()), {"image": "y.jpg"}, {"file_name": "y.jpg"}])
    assert [str(each) for each in GranDf(tmp_path).left_out] == [
        "entry 2: it has no file_name", "entry 3 (y.jpg): it has no groundings", "gone.jpg: its picture is missing"
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="no annotations of split 'val'"):
        GranDf(tmp_path, split="val")
    save_json(path, [])
    with pytest.raises(DatasetError, match="no picture that can be used: it lists none"):
        GranDf(tmp_path)


def test_the_other_layout_is_pointed_to(tmp_path):
    with pytest.raises(DatasetError, match=r"layout with anno\.json: read it as 'grandf-labels'"):
        GranDf(anno(tmp_path))


# -- TAM's layout --------------------------------------------------------------------------------------------


def test_labels_of_one_picture(tmp_path):
    (sample,) = GranDfLabels(anno(tmp_path))
    assert [(each.words, int(each.mask.sum())) for each in sample.objects] == [
        (("man in a red shirt", "man"), 9), (("dogs",), 8)
    ]  # fmt: skip
    assert [(str(each), each.words) for each in sample.left_out] == [
        ("label 3 (cat): its mask is empty", ("cat",))
    ]
    assert (sample.key, sample.caption) == ("images/x.jpg", "A man in a red shirt and dogs.")


def test_labels_above_255_are_read(tmp_path):
    """The reference keeps labels in eight bits, where the 257th phrase becomes the first."""
    anno(tmp_path, {"first": 1, "late": 257})
    labels = np.zeros((8, 10), np.uint16)
    labels[0, 0], labels[5:, 5:] = 1, 257
    Image.fromarray(labels).save(tmp_path / "labels/x.png")
    (sample,) = GranDfLabels(tmp_path)
    assert [(each.words, int(each.mask.sum())) for each in sample.objects] == [
        (("first",), 1),
        (("late",), 15),
    ]


def test_openpsg_says_what_people_say(tmp_path):
    (sample,) = OpenPSG(openpsg(tmp_path))
    assert [each.words for each in sample.objects] == [("shirt",), ("wall",)]
    assert sample.prompt == "Write a description for this image using around three sentences:"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("x.jpg", "it is not"),
        (["images/x.jpg", "text", "labels/x.png"], "it is not"),
        (["images/x.jpg", "text", "labels/x.png", {"cat": "1"}], "it is not"),
        (["images/x.jpg", "text", "labels/x.png", {"background": 0}], "it is not"),
        (["images/y.jpg", "text", "labels/x.png", {}], "its picture is missing"),
        (["images/x.jpg", "text", "labels/y.png", {}], "its label picture is missing"),
    ],
)
def test_entries_that_are_none_are_left_out(tmp_path, entry, why):
    anno(tmp_path)
    save_json(tmp_path / "anno.json", [*json.loads((tmp_path / "anno.json").read_text()), entry])
    dataset = GranDfLabels(tmp_path)
    assert (len(dataset), len(dataset.left_out)) == (1, 1)
    assert dataset.left_out[0].why.startswith(why)


def test_two_lines_about_one_picture_are_two_samples(tmp_path):
    anno(tmp_path)
    entries = json.loads((tmp_path / "anno.json").read_text())
    save_json(tmp_path / "anno.json", entries * 2)
    assert [sample.key for sample in GranDfLabels(tmp_path)] == ["images/x.jpg", "images/x.jpg#2"]
    save_labels(tmp_path / "labels/x.png", {}, size=(4, 4))
    with pytest.raises(DatasetError, match="has 10x8 pixels, but its annotations are for 4x4"):
        GranDfLabels(tmp_path)[0]


# -- phrases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "head"),
    [
        ("A man in a red shirt", "man"),
        ("the young woman wearing a hat", "woman"),
        ("a group of people", "people"),
        ("a couple of the dogs on grass", "dogs"),
        ("two wooden chairs", "chairs"),
        ("glass of wine", "glass"),
        ("street", "street"),
        ("in the background", "background"),
        ("a black and white cat", "cat"),
        ("a red, white and blue flag", "flag"),
        ("a small, white, fluffy dog", "dog"),
        ("black and white cats and dogs", "cats"),
        ("salt and pepper shakers", "shakers"),
        ("a man and a woman", "man"),
        ("man and woman", "man"),
        ("cat, dog, and bird", "cat"),
        ("two people and their dog", "people"),
        ("trees and green grass", "trees"),
        ("a black and white cat and a dog", "cat"),
        ("the man in a black shirt and jeans", "man"),
        ("a woman, smiling", "woman"),
        ("two hot dogs on a plate", "hot dogs"),
        (",", ","),
    ],
)
def test_what_a_phrase_is_about(phrase, head):
    assert head_noun(phrase) == head


def test_written_and_spoken():
    assert spoken(" The  Traffic_Light (red). ") == "traffic light"
    assert without_panoptic_suffix("wall-other-merged") == ("wall",)
    assert without_panoptic_suffix("floor-wood") == ("wood floor", "floor")
    assert without_panoptic_suffix("door-stuff") == ("door",)
    assert without_panoptic_suffix("playingfield") == ("playingfield",)


# -- pictures with captions ----------------------------------------------------------------------------------


def test_pictures_with_captions(tmp_path):
    samples = list(Captions(captioned(tmp_path)))
    assert [(each.key, each.caption, each.prompt) for each in samples] == [
        ("a.png", "a cat", "describe the picture"),
        ("more/b.png", "a mat", "what is it?"),
        ("a.png#2", "the same cat", "describe the picture"),
    ]
    assert all(each.objects == () for each in samples)
    assert samples[1].image.size == (6, 9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'image,text\na.png,"a cat, asleep"\ngone.png,nothing\n,nothing\na.png,\n'),
        (
            "metadata.csv",
            '\ufefffile_name,caption\r\na.png,"a cat, asleep"\r\ngone.png,x\r\n"",x\r\na.png,\r\n',
        ),
        ("captions.txt", "a.png\ta cat, asleep\n\ngone.png\tnothing\n\tnothing\na.png\n"),
        (
            "metadata.jsonl",
            '{"picture": "a.png", "text": "a cat, asleep"}\n{"file_name": "gone.png"}\n[1]\n{"image": "a.png"}',
        ),
    ],
)
def test_every_format_and_what_it_lacks(tmp_path, name, text):
    save_picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    dataset = Captions(tmp_path)
    assert [(each.key, each.caption) for each in dataset] == [("a.png", "a cat, asleep"), ("a.png#2", None)]
    assert [each.why for each in dataset.left_out] == [
        "its picture is missing", "it is broken or names no picture"
    ]  # fmt: skip
    assert "(gone.png)" in dataset.left_out[0].what


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.jsonl", '{"file_name": "a.png", "caption": "one\u2028two"}\r\n'),
        ("captions.csv", 'file_name,caption\r\na.png,"one\u2028two"\r\n'),
        ("captions.txt", "a.png\tone\u2028two\r\n"),
    ],
)
def test_only_the_end_of_a_line_ends_it(tmp_path, name, text):
    save_picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert [sample.caption for sample in Captions(tmp_path)] == ["one\u2028two"]
    assert Captions(tmp_path).left_out == ()


def test_captions_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no file with captions: looked for captions\.jsonl, captions\.csv"
    ):
        Captions(tmp_path)
    (tmp_path / "captions.doc").write_text("a.png")
    with pytest.raises(DatasetError, match=r"ends in '\.doc': give a file in \.jsonl, \.csv, \.txt"):
        Captions(tmp_path, file="captions.doc")
    (tmp_path / "captions.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        Captions(tmp_path)
    (tmp_path / "captions.txt").write_text("gone.png\tx")
    with pytest.raises(DatasetError, match=r"no picture that can be used: its picture is missing \(1\)"):
        Captions(tmp_path)
    save_picture(tmp_path / "gone.png")
    dataset = Captions(tmp_path)
    (tmp_path / "gone.png").write_text("no picture")
    with pytest.raises(PictureError, match="is not a picture"):
        dataset[0]
