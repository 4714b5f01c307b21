"""The image tokenizer against numbers recorded from the original code (fixtures of format 1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dcam_adapters.mmada.magvit import Magvit

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mmada"
NAMES = ("a", "b")


@pytest.fixture(params=NAMES)
def recorded(request):
    folder = FIXTURES / request.param
    tolerances = json.loads((folder / "parity.json").read_text())["tolerances"]
    magvit = Magvit.load(folder / "vq", device=torch.device("cpu"))
    return magvit, load_file(folder / "expected.safetensors"), tolerances


def test_values_before_the_sign_are_the_recorded_ones(recorded):
    magvit, expected, tolerances = recorded
    with torch.no_grad():
        values = magvit.encoder(expected["pixel_values"])
    assert values.shape == expected["vq.prequant"].shape
    assert (values - expected["vq.prequant"]).abs().max() <= tolerances["vq.prequant"]


def test_codes_are_the_recorded_ones(recorded):
    magvit, expected, _ = recorded
    with torch.no_grad():
        codes = magvit(expected["pixel_values"])
    assert codes.dtype == torch.int64
    assert torch.equal(codes, expected["vq.ids"])


def test_a_wrong_weight_is_noticed(recorded):
    magvit, expected, tolerances = recorded
    with torch.no_grad():
        magvit.encoder.down[1].downsample.conv.weight.mul_(1.01)
        values = magvit.encoder(expected["pixel_values"])
    assert (values - expected["vq.prequant"]).abs().max() > tolerances["vq.prequant"]
