"""Loading LLaDA-V checkpoints: shards, dtypes, tolerated extras, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.llada_v import FIXTURES, read, word_tokenizer

from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_core import load_model
from dcam_core.errors import CheckpointError
from dcam_core.placement import Placement
from dcam_core.probing.untouched import untouched

TOWER = "model.vision_tower.vision_tower.vision_model"


@pytest.fixture
def folder(tmp_path):
    """Fixture b's checkpoint, to be spoilt."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "b" / name, target)
    return target


def load(folder, dtype=None):
    return LLaDAVAdapter.load(folder, Placement(dtype=dtype))


def rewrite(folder, change):
    """Saves the weights again after `change(weights)`."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def reconfigure(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


def shard(folder, count=3):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for index in range(count):
        name = f"model-{index + 1:05}-of-{count:05}.safetensors"
        part = dict(list(weights.items())[index::count])
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def test_every_tensor_of_the_file_is_in_the_model_under_its_name(folder):
    model = load(folder).model
    weights = load_file(folder / "model.safetensors")
    state = model.state_dict()
    assert set(state) == set(weights)
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert not model.training


def test_the_family_is_recognised_from_config_json(folder):
    adapter = load_model(folder)
    assert type(adapter) is LLaDAVAdapter
    assert adapter.family == "llada-v"
    assert adapter.name == str(folder)


def test_shards_give_the_same_model_as_one_file(folder):
    whole = load(folder).model.state_dict()
    shard(folder)
    parts = load(folder).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_that_of_every_weight_and_logits_are_float32(folder, dtype):
    fixture = read("b")
    adapter = load(folder, dtype)
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype}
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert inputs.embeddings.dtype == dtype
    with torch.no_grad():
        logits = adapter.replay(inputs, fixture.inputs["state_ids"], torch.arange(12))
    assert logits.dtype == torch.float32
    error = (logits - fixture.expected["logits"][:, -12:]).abs().max()
    assert error < (1e-4 if dtype == torch.float64 else 0.5)


def test_without_a_dtype_the_weights_are_as_stored(folder):
    rewrite(folder, lambda weights: weights.update({n: t.bfloat16() for n, t in weights.items()}))
    assert load(folder).dtype == torch.bfloat16


def test_the_unused_last_vision_layer_and_the_pooling_head_are_ignored(folder):
    def add(weights):
        kept = f"{TOWER}.encoder.layers.1."
        extra = {
            n.replace("layers.1.", "layers.2."): t.clone() for n, t in weights.items() if n.startswith(kept)
        }
        assert extra
        weights.update(extra)
        weights[f"{TOWER}.head.probe"] = torch.zeros(1, 1, 24)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)

    rewrite(folder, add)
    assert len(load(folder).model.get_submodule(f"{TOWER}.encoder.layers")) == 2


def test_missing_tensors_are_named(folder):
    rewrite(folder, lambda weights: [weights.pop(name) for name in ("lm_head.weight", "model.norm.weight")])
    with pytest.raises(CheckpointError, match=r"2 missing: .*lm_head\.weight.*saved in part") as error:
        load(folder)
    assert "model.norm.weight" in str(error.value)


def test_unexpected_tensors_are_named(folder):
    rewrite(folder, lambda weights: weights.update({"model.resampler.query": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.resampler\.query.*does not speak of"):
        load(folder)


def test_misshaped_tensors_are_named_with_both_shapes(folder):
    reconfigure(folder, vocab_size=330)
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight \[320, 64\] instead of \[330, 64\].*config\.json"
    ):
        load(folder)


def test_a_prefix_on_every_name_is_recognised_as_such(folder):
    def wrap(weights):
        renamed = {f"module.{name}": tensor for name, tensor in weights.items()}
        weights.clear()
        weights.update(renamed)

    rewrite(folder, wrap)
    with pytest.raises(CheckpointError, match=r"and \d+ more; \d+ unexpected: module\..*prefix"):
        load(folder)


def test_lora_weights_are_recognised_as_such(folder):
    rewrite(
        folder, lambda weights: weights.update({"model.layers.0.self_attn.q_proj.lora_A": torch.zeros(2)})
    )
    with pytest.raises(CheckpointError, match="merge them"):
        load(folder)


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights: there is none of model\.safetensors, "):
        load(folder)


def test_pickled_weights_are_read_as_tensors_alone(folder):
    whole = load(folder).model.state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    pickled = load(folder).model.state_dict()
    assert all(torch.equal(whole[name], pickled[name]) for name in whole)


def test_a_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"is truncated: it has 5000 bytes.*download it anew"):
        load(folder)


def test_a_git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(CheckpointError, match="git LFS pointer"):
        load(folder)


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 3 shards.*model-00002-of-00003\.safetensors"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="no index of shards"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"device_map": {"": "cpu", "model.layers": "disk", "model.layers.1": "cpu"}}, 0.0),
        # Rounded weights, of a model that is too small to bear it well.
        ({"quantisation": "8bit"}, 0.1),
    ],
)
def test_a_placed_model_replays_and_gradients_reach_the_probe(folder, settings, error):
    library = "accelerate" if "device_map" in settings else "bitsandbytes"
    pytest.importorskip(library)
    fixture = read("b")

    def probe(**settings):
        adapter = load_model(folder, **settings)
        inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
        leaves = []

        def cut(module, arguments, output):
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        probed = adapter.model.get_submodule(adapter.layer_path("model.layers.1.input_layernorm"))
        handle = probed.register_forward_hook(cut)
        with untouched(adapter.model):
            logits = adapter.replay(inputs, fixture.inputs["state_ids"], torch.arange(12))
            (gradient,) = torch.autograd.grad(logits[0, 3].max(), leaves[-1])
        handle.remove()
        return logits.detach(), gradient

    logits, gradient = probe()
    found_logits, found = probe(**settings)
    assert (found_logits - logits).abs().max() <= error * logits.abs().max()
    assert torch.cosine_similarity(found.flatten(), gradient.flatten(), dim=0) > 1 - max(error, 1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "absent"}, "lacks hidden_size"),
        ({"mm_patch_merge_type": "spatial"}, r"mm_patch_merge_type = 'spatial'.*'spatial_unpad'"),
        ({"image_aspect_ratio": "square"}, r"image_aspect_ratio = 'square'.*'pad' and 'anyres_max_N'"),
        ({"mm_projector_type": "linear"}, "mlp2x_gelu"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"num_attention_heads": 5}, "divisor of hidden_size"),
        ({"num_key_value_heads": 3}, "divisor of num_attention_heads"),
        ({"mask_token_id": "absent"}, r"mask_token_id = None.*126336"),
    ],
)
def test_configurations_that_are_not_offered(folder, changes, message):
    reconfigure(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_fields_that_the_published_config_lacks_have_the_published_values():
    from dcam_adapters.llada_v.config import LLaDAVConfig

    config = LLaDAVConfig.from_dict(
        {
            "vocab_size": 126464,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "image_grid_pinpoints": "(1x1),...,(6x6)",
        }
    )
    assert config == LLaDAVConfig()
    assert (config.vision.image_size, config.vision.patches_per_side, config.vision.layers) == (384, 27, 26)
    assert len(config.canvases) == 36
    assert config.canvases[:2] == ((384, 384), (384, 768))


def test_rotary_settings_as_newer_transformers_write_them(folder):
    reconfigure(folder, rope_theta="absent", rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})
    assert load(folder).config.rope_theta == 10000.0


def test_the_published_model_has_the_published_shapes():
    from dcam_adapters.llada_v.config import LLaDAVConfig
    from dcam_adapters.llada_v.modeling import LLaDAV

    with torch.device("meta"):
        state = LLaDAV(LLaDAVConfig()).state_dict()
    assert len(state) == 717
    assert sum(tensor.numel() for tensor in state.values()) == 8_434_837_024


def test_tokenizer_and_generation_settings_are_read(folder):
    word_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"gen_length": 24, "block_length": 12, "steps": 6}')
    adapter = load(folder)
    sampler = adapter.default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (24, 12, 6)
    assert sampler.stop_sequences == ((adapter.tokenizer.convert_tokens_to_ids("<|eot_id|>"),),)


def test_without_tokenizer_and_generation_settings_the_sampler_is_upstreams(folder):
    reconfigure(folder, suppressed_token_ids=[301, 300])
    sampler = load(folder).default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (128, 128, 128)
    assert (sampler.schedule, sampler.remasking, sampler.temperature) == ("uniform", "low-confidence", 0)
    assert sampler.suppressed_ids == (301, 300)
    assert sampler.stop_sequences == ()


def test_broken_tokenizer_and_generation_files(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read"):
        load(folder)


def test_a_tokenizer_of_another_model(folder):
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"word{index}" for index in range(400)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer has \d+ tokens, the model embeds 320"):
        load(folder)
