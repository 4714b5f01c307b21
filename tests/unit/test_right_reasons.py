"""The pieces of docs/right-reasons.md: scenes with a planted shortcut, and a step against it."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.right_reasons import pieces

import dcam_core as dcam


@pytest.fixture(scope="module")
def page():
    return SimpleNamespace(**pieces())


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("agrees", [False, True])
def test_the_badge_tells_or_lies(page, agrees, grey):
    for question in islice(page.questions("validation", 3, agrees=agrees, grey=grey), 6):
        assert (question.badge == question.answer) == agrees
        pixels = torch.from_numpy(np.array(question.image))
        corner, rest = pixels[page.BADGE], pixels[~page.BADGE]
        assert len(corner.unique(dim=0)) == 1
        colour = torch.tensor(page.COLOURS[question.badge])
        torch.testing.assert_close(corner[0] / 255, colour, atol=0.003, rtol=0)
        assert bool((rest == rest[:, :1]).all()) == grey
        assert question.mask.any()
        assert not (question.mask & page.BADGE).any()


def test_a_step_trains_the_blocks_alone_and_the_second_term_counts(page):
    ended = []
    for weight in (0.0, 1.0):
        model = dcam.load_model("tiny-lavida")
        before = {name: value.clone() for name, value in model.model.state_dict().items()}
        page.train(model, page.questions("train", 60_000, agrees=True), steps=1, weight=weight)
        changed = {
            name for name, value in model.model.state_dict().items() if not torch.equal(value, before[name])
        }
        assert changed
        assert all(".blocks." in name for name in changed)
        ended.append(model.model.state_dict())
    assert any(not torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
