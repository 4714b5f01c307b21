"""Faithfulness on a model that really looks: true maps are told from wrong ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from benchmarks.scenes_answers import answers

from dcam_core import load_model
from dcam_core.faithfulness import AskedWords, deletion_insertion, drop_and_increase, mean_coloured, road
from dcam_core.probing.picture_grid import picture_grids


@pytest.fixture(scope="module")
def model():
    return load_model("tiny-llada-v")


@pytest.fixture(scope="module")
def scene(model):
    """The first scene of which the model names something."""
    return next(case for case in answers(model, "test", 5) if case.named)


@pytest.fixture(scope="module")
def asked(model, scene):
    targets = [named.target for named in scene.named]
    return AskedWords(model, scene.picture, scene.inputs.prompt, scene.trajectory, targets)


@pytest.fixture(scope="module")
def truth(scene):
    """[T, h, w], how much of each token's part of the picture the named object fills: a true map."""
    (grid,) = picture_grids(scene.inputs, None)
    return F.adaptive_avg_pool2d(scene.masks.double(), (grid.rows, grid.cols))


def test_the_words_are_likely_with_their_picture_and_not_without(asked):
    there, gone = (asked.with_picture(each) for each in (asked.picture, mean_coloured(asked.picture)))
    assert (there.exp() > 0.5).all()
    assert (gone < there).all()


def test_the_objects_themselves_are_faithful_maps_and_their_inverses_are_not(asked, truth):
    curves = deletion_insertion(asked, truth, mean_coloured(asked.picture), intervals=8)
    assert (curves.difference > 0.3).all()
    torch.testing.assert_close(curves.deleted[:, 0], curves.inserted[:, -1], atol=1e-4, rtol=0)
    assert curves.deletion_auc.amin() >= 0


def test_road_agrees(asked, truth):
    assert (road(asked, truth, percentiles=(50, 80)).score > 0.1).all()


def test_the_object_alone_keeps_its_word_and_the_rest_loses_it(asked, truth):
    lit, dark = (drop_and_increase(asked, maps).drop for maps in (truth, 1 - truth))
    assert (lit < dark).all()
