"""GranDf's masks against a recorded annotation, and what the reference makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.dataset_folders import save_json, save_picture

from dcam_plugins.datasets import GranDf

FIXTURES = Path(__file__).parents[1] / "fixtures" / "method"


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURES / "grandf_rle.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def sample(tmp_path):
    height, width = 37, 53
    save_picture(tmp_path / "x.jpg", size=(width, height))
    annotation = json.loads((FIXTURES / "grandf_rle.json").read_text())
    save_json(tmp_path / "GranDf_HA_GCG_train.json", [annotation])
    return GranDf(tmp_path)[0]


def test_every_mask_of_every_phrase_is_there(sample, recorded):
    expected = {f"obj {index}": recorded[f"mask_{index}"] > 0 for index in range(4)}
    # The reference drops all but the first mask of a phrase, and masks that are not compressed.
    expected["obj 1"] |= recorded["mask_1_second_instance_ignored"] > 0
    assert expected["obj 1"].sum() > (recorded["mask_1"] > 0).sum()
    found = {each.words[0]: each.mask.numpy() for each in sample.objects}
    assert set(found) == {*expected, "uncompressed"}
    assert all(np.array_equal(found[name], mask) for name, mask in expected.items())
    assert np.flatnonzero(found["uncompressed"].ravel(order="F")).tolist() == list(range(10, 15))
    assert [each.what for each in sample.left_out] == ["phrase 'no masks'"]


def test_overlaps_are_kept_where_the_reference_lets_the_last_phrase_win(sample, recorded):
    label_map = np.zeros((37, 53), np.uint8)
    for index in range(4):
        label_map[recorded[f"mask_{index}"] > 0] = index + 1
    assert np.array_equal(label_map, recorded["reference_combined"])
    masks = {each.words[0]: each.mask.numpy() for each in sample.objects}
    assert (masks["obj 0"] & (label_map > 1)).any()
