"""Every preset of a published method or baseline explains; those that decide for themselves decide right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcam_core import Explainer
from dcam_core.plugins import default_manager
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture
from dcam_plugins.deciding import whole_answer

PRESETS = [entry.name for entry in default_manager().registries.methods if entry.plugin == "methods"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_explains(preset):
    explainer = Explainer(toy_adapter(), preset)
    explanation = explainer.explain(toy_picture(), "the red circle", targets=["@1", "@4"])
    assert explanation.raw.shape == (2, 3, 4)
    assert explanation.maps.isfinite().all()
    assert explainer.method.description


def test_every_attribution_has_a_preset_to_compare_with():
    named = {Explainer(toy_adapter(), preset).method.attribution["name"] for preset in PRESETS}
    assert named == set(default_manager().registries.attributions.names)


@pytest.fixture
def run():
    adapter = toy_adapter()
    inputs = adapter.prepare(toy_picture(), "the red circle")
    with torch.no_grad():
        trajectory = adapter.denoise(inputs, adapter.default_sampler)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    return adapter, inputs, trajectory, answer


def test_llava_cam_explains_the_whole_answer_at_once(run):
    adapter, inputs, trajectory, answer = run
    explainer = Explainer(adapter, "llava-cam")
    assert explainer.layer == "blocks.1.norm"
    made = explainer.explain_run(inputs, trajectory, answer, select_targets(answer, ["@1", "@4"]))
    first, second = made.pictures[0].raw
    torch.testing.assert_close(first, second)
    everywhere = torch.arange(trajectory.answer_length)
    with torch.no_grad():
        logits = adapter.replay(inputs, trajectory.final[None], everywhere)[0]
    said = logits.gather(-1, trajectory.answer_ids[:, None]).sum()
    assert made.targets[0].score == pytest.approx(said.item(), abs=1e-3)


def test_the_whole_answer_holds_the_word_that_is_asked_for(run):
    _, _, trajectory, answer = run
    (target,) = select_targets(answer, ["@1"])
    objective = whole_answer(target, trajectory)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(trajectory.answer_length, 22)))
    ids = [target.token_ids[0], *(int(trajectory.final[place]) for place in objective.context)]
    expected = sum(rows[number, token] for number, token in enumerate(ids))
    torch.testing.assert_close(objective.score(rows, torch.tensor(target.token_ids)), expected)
    assert sorted((*target.positions, *objective.context)) == list(range(trajectory.answer_length))
