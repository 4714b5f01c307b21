"""LaViDa, on both backbones, against numbers recorded from the original code (fixtures of format 1)."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file, save_file
from support.lavida import FIXTURES, NAMES, read

from dcam_core import parity


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_quantity_is_within_tolerance(name):
    quantities = {quantity.name: quantity for quantity in parity.compare(FIXTURES / name)}
    # Nothing is skipped, either: pooling, prefix caching and Dream's timetable are all there.
    assert [str(quantity) for quantity in quantities.values() if quantity.status != "pass"] == []
    recorded = [*read(name).expected, *load_file(FIXTURES / name / "trajectories.safetensors")]
    assert set(recorded) <= set(quantities)
    assert {"vision.pooled", "prefix.logits", "prefix.grad"} <= set(quantities)
    assert quantities["pixel_values"].error == 0


@pytest.mark.parametrize(
    ("name", "tensor", "failing"),
    [
        ("a", "model.mm_projector.2.bias", {"vision.projected", "vision.pooled", "prompt_embeds"}),
        ("a", "model.transformer.blocks.3.k_proj.weight", {"hidden.3", "logits", "prefix.logits"}),
        ("dream", "model.layers.3.self_attn.q_proj.bias", {"hidden.3", "logits", "prefix.logits"}),
        ("dream", "lm_head.weight", {"logits", "prefix.logits"}),
    ],
)
def test_a_wrong_weight_fails_from_there_on(tmp_path, name, tensor, failing):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor] = weights[tensor] + 0.02 * weights[tensor].std() + 0.05 * weights[tensor].roll(1, 0)
    save_file(weights, folder / "model.safetensors")
    status = {quantity.name: quantity.status for quantity in parity.compare(folder)}
    assert {quantity for quantity in failing if status[quantity] != "fail"} == set()
    assert status["vision.features"] == status["hidden.0" if "hidden.3" in failing else "rects"] == "pass"
