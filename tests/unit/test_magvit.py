"""The image tokenizer: its published dimensions, its bit rule, its grid, and folders that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcam_adapters.mmada.magvit import WEIGHTS, Magvit, MagvitConfig
from dcam_core.errors import CheckpointError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mmada"
CPU = torch.device("cpu")
TINY = MagvitConfig(ch=32, ch_mult=(1, 2), num_res_blocks=(0, 1), z_channels=5)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURES / "b" / "vq", tmp_path / "vq"))


def test_the_defaults_are_the_published_model():
    with torch.device("meta"):
        magvit = Magvit(MagvitConfig())
    encoder = magvit.encoder.state_dict()
    assert len(encoder) == 190
    assert sum(tensor.numel() for tensor in encoder.values()) == 55_439_171
    names = magvit.state_dict()
    assert names["quantize.embedding"].shape == (8192, 13)
    assert names["quantize.power_vals"].shape == (13,)
    assert names["encoder.down.1.block.0.nin_shortcut.weight"].shape == (256, 128, 1, 1)
    assert names["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert (magvit.config.factor, magvit.config.codebook_size) == (16, 8192)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_fresh_model_has_the_names_and_the_buffers_of_a_checkpoint(name):
    stored = load_file(FIXTURES / name / "vq" / "model.safetensors")
    config = MagvitConfig.from_dict(json.loads((FIXTURES / name / "vq" / "config.json").read_text()))
    fresh = Magvit(config).state_dict()
    assert set(fresh) == {key for key in stored if not key.startswith("decoder.")}
    for buffer in ("quantize.embedding", "quantize.power_vals"):
        assert torch.equal(fresh[buffer], stored[buffer])


def test_channel_zero_is_the_most_significant_bit_and_zero_counts_as_negative():
    values = torch.full((1, 5, 2, 3), -1.0)
    values[0, 0, 0, 1] = 0.1  # 10000
    values[0, 4, 1, 0] = 2.0  # 00001
    values[0, :, 1, 2] = torch.tensor([0.0, 1.0, -0.0, 1e-30, -1.0])  # 01010
    assert Magvit(TINY).quantize(values).tolist() == [[0, 16, 0, 1, 0, 10]]


def test_codes_are_indices_of_the_embedding():
    quantise = Magvit(TINY).quantize
    codes = torch.arange(32)
    values = quantise.embedding[codes].T[None, :, None]  # [1, K, 1, 32]
    assert torch.equal(quantise(values)[0], codes)


def test_a_code_stands_for_a_square_of_the_picture():
    magvit = Magvit(TINY)
    assert magvit(torch.zeros(2, 3, 10, 10)).shape == (2, 25)


def test_autocast_does_not_reach_the_encoder(folder):
    magvit = Magvit.load(folder, device=CPU)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []
    magvit.encoder.register_forward_hook(lambda *call: seen.append(call[-1]))
    plain = magvit(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = magvit(pixels.bfloat16().float())
    assert torch.equal(plain, magvit(pixels))
    assert inside.shape == plain.shape
    assert [values.dtype for values in seen] == [torch.float32] * 3


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_found_by_each_published_name(folder, name):
    (folder / "model.safetensors").rename(folder / f"{name}.safetensors")
    assert not Magvit.load(folder, device=CPU).training


def test_half_precision_weights_become_float32(folder):
    weights = load_file(folder / "model.safetensors")
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(half, folder / "model.safetensors")
    magvit = Magvit.load(folder, device=CPU)
    assert magvit.encoder.conv_in.weight.dtype == torch.float32
    assert magvit.quantize.power_vals.dtype == torch.int64


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.safetensors"):
        Magvit.load(folder, device=CPU)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_an_unreadable_config_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Magvit.load(folder, device=CPU)


def test_missing_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.quant_conv.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.quant_conv\.weight"):
        Magvit.load(folder, device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": 48}, "no multiple of 32"),
        ({"num_res_blocks": [1]}, "one entry per level"),
        ({"double_z": True}, "predicts variances"),
        ({"attn_resolutions": [32], "resolution": 64}, "attends between its levels"),
    ],
)
def test_dimensions_that_are_not_offered_are_refused(change, message):
    values = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": [1, 1], **change}
    with pytest.raises(CheckpointError, match=message):
        MagvitConfig.from_dict(values)


def test_fields_that_the_published_file_lacks_have_the_published_values():
    assert MagvitConfig.from_dict({"_class_name": "MAGVITv2"}) == MagvitConfig()
