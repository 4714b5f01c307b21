"""LLaDA-V against numbers recorded from the original code (fixtures of format 1)."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.llada_v import FIXTURES, NAMES, read

from dcam_core import parity
from dcam_core.errors import UsageError


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_quantity_is_within_tolerance(name):
    quantities = {quantity.name: quantity for quantity in parity.compare(FIXTURES / name)}
    assert [str(quantity) for quantity in quantities.values() if quantity.status == "fail"] == []

    recorded = [*read(name).expected, *load_file(FIXTURES / name / "trajectories.safetensors")]
    assert set(recorded) <= set(quantities)
    assert quantities["pixel_values"].error == 0
    skipped = {quantity.name for quantity in quantities.values() if quantity.status == "skipped"}
    assert skipped == set()


def test_a_skipped_run_says_why(tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(FIXTURES / "a", folder)
    facts = json.loads((folder / "parity.json").read_text())
    facts["runs"]["dllm_cache"]["cache"]["kind"] = "fast"
    (folder / "parity.json").write_text(json.dumps(facts))
    quantities = {quantity.name: quantity for quantity in parity.compare(folder)}
    assert str(quantities["dllm_cache.steps"]).endswith('cache "fast" is not offered by llada-v')
    assert quantities["plain.steps"].status == "pass"


def _copy_with(tmp_path, change):
    """Fixture f with its weights changed."""
    folder = tmp_path / "f"
    shutil.copytree(FIXTURES / "f", folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return {quantity.name: quantity.status for quantity in parity.compare(folder)}


def test_a_wrong_weight_fails_from_there_on(tmp_path):
    def change(weights):
        weights["model.layers.1.mlp.up_proj.weight"] += 0.01

    status = _copy_with(tmp_path, change)
    assert status["hidden.0"] == status["prompt_embeds"] == "pass"
    assert status["hidden.1"] == status["hidden.2"] == status["logits"] == "fail"


def test_a_wrong_newline_fails_in_the_prompt(tmp_path):
    def change(weights):
        weights["model.image_newline"] += 0.01

    status = _copy_with(tmp_path, change)
    assert status["vision.projected"] == "pass"
    assert status["prompt_embeds"] == "fail"


def test_rectangles_are_compared_where_they_are_recorded(tmp_path):
    folder = tmp_path / "f"
    shutil.copytree(FIXTURES / "f", folder)
    expected = load_file(folder / "expected.safetensors")
    # The picture, 44x70, is centred on a square of 70 pixels, of which every token shows 17.5.
    edges = torch.arange(5) * 17.5
    x, y = (edges - 13).clamp(0, 44), edges
    cells = [[x[c], y[r], x[c + 1], y[r + 1]] for r in range(4) for c in range(4)]
    for shift, status in ((0.0, "pass"), (0.1, "fail")):
        rects = torch.tensor([*cells, [float("nan")] * 4]) + shift
        save_file({**expected, "rects": rects}, folder / "expected.safetensors")
        assert {q.name: q.status for q in parity.compare(folder)}["rects"] == status


def test_quantities_that_a_family_does_not_name_are_skipped(tmp_path):
    folder = tmp_path / "f"
    shutil.copytree(FIXTURES / "f", folder)
    expected = load_file(folder / "expected.safetensors")
    save_file({**expected, "vision.pooled": torch.zeros(1)}, folder / "expected.safetensors")
    quantity = next(q for q in parity.compare(folder) if q.name == "vision.pooled")
    assert quantity.status == "skipped"
    assert "parity_modules" in quantity.reason


def test_folders_that_are_no_fixtures(tmp_path):
    with pytest.raises(UsageError, match=r"no parity fixture: it has no parity\.json, image\.png"):
        parity.compare(tmp_path)
    folder = tmp_path / "f"
    shutil.copytree(FIXTURES / "f", folder)
    facts = json.loads((folder / "parity.json").read_text())
    (folder / "parity.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(UsageError, match="format 2"):
        parity.compare(folder)


def test_shapes_and_nans_that_differ_are_infinitely_wrong():
    assert parity._largest_error(torch.zeros(2), torch.zeros(3)) == float("inf")
    nan = torch.tensor([float("nan"), 1.0])
    assert parity._largest_error(nan, nan) == 0
    assert parity._largest_error(nan, torch.ones(2)) == float("inf")
