"""Loading MMaDA checkpoints: two folders, their names and dtypes, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.mmada import FIXTURES, read, word_tokenizer

from dcam_adapters.mmada import image_tokenizer
from dcam_adapters.mmada.adapter import MMaDAAdapter
from dcam_adapters.mmada.config import MMaDAConfig, SpecialIds
from dcam_adapters.mmada.modeling import MMaDA
from dcam_core import load_model
from dcam_core.errors import CheckpointError
from dcam_core.placement import Placement


@pytest.fixture
def folder(tmp_path):
    """Fixture a's checkpoint, to be spoilt; its image tokenizer has a decoder."""
    target = tmp_path / "checkpoint"
    (target / "vq").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "vq/config.json", "vq/model.safetensors"):
        shutil.copy(FIXTURES / "a" / name, target / name)
    return target


def reconfigure(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


def test_every_tensor_of_the_file_is_in_the_model_under_its_name(folder):
    model = MMaDAAdapter.load(folder).model
    weights, state = load_file(folder / "model.safetensors"), model.state_dict()
    assert set(state) == set(weights)
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert not model.training


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architectures": ["LLaDAModelLM"], "model_type": "llada"},
        {"architectures": "absent", "model_type": "llada"},
        {"architectures": "absent"},
    ],
)
def test_the_family_is_recognised_from_config_json(folder, changes):
    reconfigure(folder, **changes)
    adapter = load_model(folder)
    assert type(adapter) is MMaDAAdapter
    assert (adapter.family, adapter.name) == ("mmada", str(folder))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_image_tokenizer_stays_in_float32(folder, dtype):
    fixture = read("a")
    adapter = MMaDAAdapter.load(folder, Placement(dtype=dtype))
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype}
    assert {parameter.dtype for parameter in adapter.vq.parameters()} == {torch.float32}
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert inputs.embeddings.dtype == dtype
    with torch.no_grad():
        logits = adapter.replay(inputs, fixture.inputs["state_ids"], torch.arange(16))
    assert logits.dtype == torch.float32
    error = (logits - fixture.expected["logits"][:, -16:]).abs().max()
    assert error < (1e-4 if dtype == torch.float64 else 0.5)


def test_without_a_dtype_the_weights_are_as_stored(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    assert MMaDAAdapter.load(folder).dtype == torch.bfloat16


# -- the image tokenizer -------------------------------------------------------------------------------------


def test_an_image_tokenizer_from_elsewhere(folder, tmp_path):
    (folder / "vq").rename(tmp_path / "magvit")
    with pytest.raises(CheckpointError, match=r"no folder 'vq'.*8192 codes, this model 64.*vq="):
        MMaDAAdapter.load(folder)
    adapter = load_model(folder, vq=tmp_path / "magvit")
    assert adapter.vq.config.codebook_size == 64


def test_an_image_tokenizer_that_is_not_there(folder, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"image tokenizer of .* is missing: .*nowhere.*; put its config"
    ):
        MMaDAAdapter.load(folder, vq=tmp_path / "nowhere")
    (folder / "vq" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="vq"):
        MMaDAAdapter.load(folder)


def test_the_published_image_tokenizer_is_fetched_for_the_published_number_of_codes(folder, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        raise CheckpointError(f"model {name!r} cannot be had from the hub")

    monkeypatch.setattr(image_tokenizer, "checkpoint_folder", fetch)
    shutil.rmtree(folder / "vq")
    reconfigure(folder, codebook_size=8192, vocab_size=9000, embedding_size=9000)
    with pytest.raises(CheckpointError, match=r"'showlab/magvitv2' cannot be had.*; put its config\.json"):
        MMaDAAdapter.load(folder)
    assert asked == ["showlab/magvitv2"]


def test_an_image_tokenizer_with_another_number_of_codes(folder):
    reconfigure(folder, codebook_size=128)
    with pytest.raises(CheckpointError, match=r"64 codes \(6 bits\), the language model 128"):
        MMaDAAdapter.load(folder)


# -- config.json ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": "absent"}, r"lacks codebook_size.*MMadaModelLM.*not MMaDA's.*text-only LLaDA"),
        ({"d_model": "absent"}, "lacks d_model"),
        ({"num_vq_tokens": 15}, r"num_vq_tokens = 15.*square numbers"),
        ({"mask_token_id": "absent"}, r"mask_token_id = 126336.*below 320"),
        (
            {"image_token_offset": 300},
            r"64 image codes \(codebook_size\) behind 300 .* need 364 ids.*has 320",
        ),
        ({"special_token_ids": {"<|mmu|>": 9}}, r"special_token_ids = .*below 320"),
        ({"block_type": "sequential"}, r"block_type = 'sequential'.*MMaDA's adapter offers 'llama'"),
        ({"n_kv_heads": 3}, "divisor of n_heads"),
    ],
)
def test_configurations_that_are_not_offered(folder, changes, message):
    reconfigure(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        MMaDAAdapter.load(folder)


def test_a_lavida_checkpoint_with_this_adapter(folder):
    reconfigure(
        folder,
        codebook_size="absent",
        architectures=["LlavaLladaForMaskedDiffusion"],
        model_type="llava_llada",
    )
    with pytest.raises(CheckpointError, match=r"LlavaLladaForMaskedDiffusion.*leave the adapter out"):
        load_model(folder, adapter="mmada")


def test_fields_that_the_published_config_lacks_have_the_published_values():
    config = MMaDAConfig.from_dict(
        {
            **{
                "d_model": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "mlp_hidden_size": 12288,
                "vocab_size": 134656,
            },
            **{"codebook_size": 8192, "num_vq_tokens": 1024, "mask_token_id": 126336},
        }
    )
    assert config == MMaDAConfig()
    assert (config.cells, config.offset(None), config.offset(126349)) == (32, 126349, 126349)
    assert config.special_ids == SpecialIds(mmu=126089, soi=126084, eoi=126085)


def test_what_tells_the_ids_of_image_codes():
    fixture = read("a")
    config = MMaDAConfig.from_dict(fixture.config)
    assert (config.offset(None), config.offset(243), config.special_ids) == (None, 243, None)
    named = MMaDAConfig.from_dict(fixture.named)
    assert (named.offset(None), named.offset(17)) == (243, 243)
    assert named.special_ids == SpecialIds(mmu=209, soi=204, eoi=205)


def test_the_published_model_has_the_published_shapes():
    with torch.device("meta"):
        state = MMaDA(MMaDAConfig()).state_dict()
    assert len(state) == 291
    assert sum(tensor.numel() for tensor in state.values()) == 8_082_690_048


# -- tokenizer and generation settings -----------------------------------------------------------------------


def test_tokenizer_and_generation_settings_are_read(folder):
    reconfigure(folder, image_token_offset=243)
    word_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"gen_length": 24, "block_length": 12, "steps": 6}')
    adapter = MMaDAAdapter.load(folder)
    sampler = adapter.default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (24, 12, 6)
    assert len(sampler.stop_sequences) == 2


def test_a_tokenizer_of_another_model(folder):
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"word{index}" for index in range(400)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        CheckpointError, match=r"64 image codes .* behind \d+ other tokens.*do not belong together"
    ):
        MMaDAAdapter.load(folder)


def test_a_tokenizer_without_the_end_of_turn(folder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    ).save_pretrained(folder)
    adapter = MMaDAAdapter.load(folder)
    with pytest.raises(CheckpointError, match=r"no '<\|eot_id\|>' token, which ends MMaDA's answers"):
        _ = adapter.default_sampler
