"""LaViDa's checkpoints: recognised by architecture, complete by name and shape, refused where not offered."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.lavida import FIXTURES, NAMES, read

from dcam_adapters.lavida.adapter import LaViDaAdapter, LaViDaDreamAdapter
from dcam_adapters.lavida.config import LaViDaDreamConfig, LaViDaLLaDAConfig
from dcam_adapters.lavida.modeling import LaViDaDream, LaViDaLLaDA
from dcam_core import load_model
from dcam_core.errors import CheckpointError

TOWER = "model.vision_tower.vision_tower.vision_model"


def copied(tmp_path, name, **changes):
    """A fixture's checkpoint with another config.json."""
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(FIXTURES / name / "model.safetensors", folder)
    config = {**read(name).config, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_file_is_in_the_model_under_its_name(name):
    adapter = load_model(FIXTURES / name)
    weights = read(name).weights
    state = adapter.model.state_dict()
    assert set(state) == set(weights)
    assert all(torch.equal(state[key], weights[key]) for key in weights)
    assert not any(tensor.is_meta for tensor in [*adapter.model.parameters(), *adapter.model.buffers()])
    assert type(adapter) is (LaViDaDreamAdapter if name == "dream" else LaViDaAdapter)


def test_dream_is_recognised_by_its_model_type(tmp_path):
    assert type(load_model(copied(tmp_path, "dream", architectures=None))) is LaViDaDreamAdapter


def test_the_model_type_alone_does_not_tell_lavida_from_llada_v(tmp_path):
    folder = copied(tmp_path, "a", architectures=None)
    with pytest.raises(CheckpointError, match=r"lavida.*llada-v|llada-v.*lavida"):
        load_model(folder)
    assert type(load_model(folder, adapter="lavida")) is LaViDaAdapter


def test_a_folder_of_the_other_backbone():
    with pytest.raises(CheckpointError, match=r"LaViDa checkpoint lacks d_model, n_layers, n_heads"):
        LaViDaAdapter.load(FIXTURES / "dream")


def test_the_unused_last_vision_layer_is_ignored(tmp_path):
    folder = copied(tmp_path, "b")
    weights = load_file(folder / "model.safetensors")
    kept = f"{TOWER}.encoder.layers.1."
    weights |= {
        n.replace("layers.1.", "layers.2."): t.clone() for n, t in weights.items() if n.startswith(kept)
    }
    save_file(weights, folder / "model.safetensors")
    assert len(LaViDaAdapter.load(folder).model.get_submodule(f"{TOWER}.encoder.layers")) == 2


# Source: spec, section 2. The tower is LLaDA-V's: 421 tensors, 397,747,744 parameters.
def _vision(width):
    return 421 + 1 + 4, 397_747_744 + width + (1152 * width + width) + (width * width + width)


def test_the_published_llada_backbone_has_the_published_shapes():
    with torch.device("meta"):
        state = LaViDaLLaDA(LaViDaLLaDAConfig()).state_dict()
    tensors, parameters = _vision(4096)
    block = 4 * 4096**2 + 3 * 4096 * 12288 + 2 * 4096
    assert len(state) == 32 * 9 + 3 + tensors == 717
    expected = 32 * block + 2 * 126464 * 4096 + 4096 + parameters
    # LLaDA-V's figure: the same language model under other names.
    assert sum(tensor.numel() for tensor in state.values()) == expected == 8_434_837_024
    assert tuple(state["model.transformer.blocks.31.ff_out.weight"].shape) == (4096, 12288)
    assert tuple(state["model.transformer.ff_out.weight"].shape) == (126464, 4096)


def test_the_published_dream_backbone_has_the_published_shapes():
    with torch.device("meta"):
        state = LaViDaDream(LaViDaDreamConfig()).state_dict()
    tensors, parameters = _vision(3584)
    attention = 2 * 3584**2 + 3584 + 2 * (512 * 3584 + 512)
    block = attention + 3 * 3584 * 18944 + 2 * 3584
    assert len(state) == 28 * 12 + 3 + tensors == 765
    expected = 28 * block + 2 * 152064 * 3584 + 3584 + parameters
    assert sum(tensor.numel() for tensor in state.values()) == expected == 8_030_348_832
    assert tuple(state["model.layers.27.self_attn.k_proj.bias"].shape) == (512,)
    assert "model.layers.0.self_attn.o_proj.bias" not in state


def test_published_fields_are_the_defaults():
    llada = LaViDaLLaDAConfig.from_dict(
        {
            **{"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288},
            **{"vocab_size": 126464, "image_aspect_ratio": "anyres", "mm_spatial_pool_mode": "bilinear"},
            "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]],
        }
    )
    assert llada == LaViDaLLaDAConfig()
    dream = LaViDaDreamConfig.from_dict(
        {
            **{
                "hidden_size": 3584,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
            },
            **{"intermediate_size": 18944, "vocab_size": 152064, "image_aspect_ratio": "anyres"},
            **{"rope_theta": 1000000.0, "rms_norm_eps": 1e-6},
        }
    )
    assert dream == LaViDaDreamConfig()
    assert (dream.language.head_dim, dream.mask_token_id) == (128, 151666)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a", {"weight_tying": True}, "weight_tying = True"),
        ("a", {"block_type": "sequential"}, "block_type = 'sequential'"),
        ("a", {"mm_spatial_pool_mode": "conv"}, "mm_spatial_pool_mode = 'conv'.*'bilinear'"),
        ("a", {"mm_resampler_type": "perceiver"}, "mm_resampler_type = 'perceiver'"),
        ("a", {"mm_projector_type": "pooler"}, "mm_projector_type = 'pooler'"),
        ("a", {"image_aspect_ratio": "anyres_max_9"}, r"image_aspect_ratio = 'anyres_max_9'.*'anyres'"),
        ("a", {"mm_patch_merge_type": "flat"}, "mm_patch_merge_type = 'flat'"),
        ("a", {"mask_token_id": 400}, r"mask_token_id = 400.*ids below vocab_size = 384"),
        ("dream", {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ("dream", {"use_sliding_window": True}, "use_sliding_window"),
        ("dream", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("dream", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ],
)
def test_configurations_that_are_not_offered(name, changes, message):
    kind = LaViDaDreamConfig if name == "dream" else LaViDaLLaDAConfig
    with pytest.raises(CheckpointError, match=message):
        kind.from_dict({**read(name).config, **changes})


def test_generation_settings_are_read(tmp_path):
    for name, kind in (("a", LaViDaAdapter), ("dream", LaViDaDreamAdapter)):
        folder = copied(tmp_path, name)
        (folder / "generation_config.json").write_text('{"gen_length": 24, "block_length": 12, "steps": 6}')
        sampler = kind.load(folder).default_sampler
        assert sampler.answer_length == 24
        if name == "a":
            assert (sampler.block_length, sampler.steps) == (12, 6)
