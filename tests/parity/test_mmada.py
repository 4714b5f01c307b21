"""MMaDA against numbers recorded from the original code (fixtures of format 1)."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file, save_file
from support.mmada import FIXTURES, NAMES, read

from dcam_core import parity


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_quantity_is_within_tolerance(name):
    quantities = {quantity.name: quantity for quantity in parity.compare(FIXTURES / name)}
    assert [str(quantity) for quantity in quantities.values() if quantity.status != "pass"] == []

    recorded = [*read(name).expected, *load_file(FIXTURES / name / "trajectories.safetensors")]
    assert set(recorded) <= set(quantities)
    assert quantities["pixel_values"].error == quantities["prompt_embeds"].error == 0


def test_the_guided_run_chose_the_mask_itself():
    """What makes fixture b strict: a sampler that bans the mask, or forgets old blocks, fails it."""
    final = load_file(FIXTURES / "b" / "trajectories.safetensors")["guided.final"]
    assert int((final == read("b").config["mask_token_id"]).sum()) == 6


def _status_with(tmp_path, file, change):
    """Fixture b with the weights of one file changed."""
    folder = tmp_path / "b"
    shutil.copytree(FIXTURES / "b", folder)
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file)
    return {quantity.name: quantity.status for quantity in parity.compare(folder)}


def test_a_wrong_weight_fails_from_there_on(tmp_path):
    def change(weights):
        weights["model.transformer.blocks.1.up_proj.weight"] += 0.01

    status = _status_with(tmp_path, "model.safetensors", change)
    assert status["hidden.0"] == status["vq.ids"] == "pass"
    assert status["hidden.1"] == status["hidden.4"] == status["logits"] == status["grad"] == "fail"


def test_a_wrong_head_fails_in_the_logits_alone(tmp_path):
    def change(weights):
        weights["model.transformer.ff_out.weight"] *= 1.01

    status = _status_with(tmp_path, "model.safetensors", change)
    assert status["final_norm"] == "pass"
    assert status["logits"] == status["grad"] == "fail"


def test_a_wrong_image_tokenizer_fails_before_the_prompt(tmp_path):
    def change(weights):
        weights["encoder.quant_conv.bias"] += 1e-3

    status = _status_with(tmp_path, "vq/model.safetensors", change)
    assert status["pixel_values"] == "pass"
    assert status["vq.prequant"] == "fail"
    assert status["logits"] == "pass"  # the prompt brings its ids
