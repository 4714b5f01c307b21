"""MMaDA's adapter: what it prepares, what it replays, and around which models it goes."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from support.mmada import NAMES, ImageTokenizerStandIn, StandIn, read, word_tokenizer
from torch import nn

from dcam_adapters.mmada.adapter import MMaDAAdapter
from dcam_adapters.mmada.config import MMaDAConfig
from dcam_core.denoising import SamplerSettings, decision_logits
from dcam_core.errors import CheckpointError, ConfigurationError, PictureError, UsageError
from dcam_core.inputs import Prefix
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.probe import probe
from dcam_core.probing.replayed import Reading
from dcam_core.probing.untouched import untouched


@pytest.fixture(scope="module")
def fixture():
    return read("b")


@pytest.fixture(scope="module")
def adapter(fixture):
    return MMaDAAdapter.load(fixture.folder)


@pytest.fixture(scope="module")
def inputs(adapter, fixture):
    return adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


def named(adapter, fixture, tokenizer=None):
    """The same models with the ids that parity.json knows and config.json does not."""
    return MMaDAAdapter(adapter.model, MMaDAConfig.from_dict(fixture.named), adapter.vq, tokenizer)


# -- preparing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_prompt_is_made_of_picture_and_text(name):
    fixture = read(name)
    adapter = named(MMaDAAdapter.load(fixture.folder), fixture)
    embedding = adapter.model.model.transformer["wte"]
    whole = embedding(fixture.inputs["input_ids"])
    for ids in (fixture.inputs["text_ids"], fixture.inputs["input_ids"]):
        inputs = adapter.prepare_ids(fixture.picture, ids)
        assert torch.equal(inputs.embeddings, whole)
        assert inputs.image_span == tuple(fixture.facts["image_span"])
        assert inputs.picture_sizes == (fixture.picture.size,)


def test_a_prompt_in_words(adapter, fixture):
    speaking = named(adapter, fixture, word_tokenizer())
    inputs = speaking.prepare(fixture.picture, "what is this ?")
    assert inputs.prompt == "what is this ?"
    embedding = speaking.model.model.transformer["wte"].weight
    start, end = inputs.image_span
    special = fixture.facts["special_token_ids"]
    assert torch.equal(inputs.embeddings[0, start - 1], embedding[special["<|soi|>"]])
    assert torch.equal(inputs.embeddings[0, end], embedding[special["<|eoi|>"]])
    bos = speaking.tokenizer.convert_tokens_to_ids("<|startoftext|>")
    assert torch.equal(inputs.embeddings[0, end + 1], embedding[bos])
    assert inputs.prompt_length == end + 1 + 14


def test_a_prompt_in_words_needs_a_tokenizer(adapter, fixture):
    with pytest.raises(CheckpointError, match=r"no tokenizer.*prepare_ids"):
        adapter.prepare(fixture.picture, "what is this ?")


def test_text_alone_needs_the_ids_of_image_codes(adapter, fixture):
    config = {**fixture.named, "image_token_offset": None}
    unknowing = MMaDAAdapter(adapter.model, MMaDAConfig.from_dict(config), adapter.vq)
    with pytest.raises(UsageError, match=r"nothing tells the ids of image codes.*image_token_offset"):
        unknowing.prepare_ids(fixture.picture, fixture.inputs["text_ids"])


@pytest.mark.parametrize("knowing", [True, False])
def test_image_ids_of_another_picture_are_refused(adapter, fixture, knowing):
    reader = named(adapter, fixture) if knowing else adapter
    other = Image.effect_noise((100, 90), 100)
    with pytest.raises(UsageError, match=r"only \d+ of the prompt's 64 image ids are those of this picture"):
        reader.prepare_ids(other, fixture.inputs["input_ids"])


def test_image_ids_that_are_a_few_bits_off_are_read_with_a_warning(adapter, fixture, caplog):
    ids = fixture.inputs["input_ids"].clone()
    ids[0, 2:5] += 1
    with caplog.at_level(logging.WARNING, "dcam"):
        inputs = named(adapter, fixture).prepare_ids(fixture.picture, ids)
    assert "3 of the prompt's 64 image ids are not those that the picture has here" in caplog.text
    assert torch.equal(inputs.embeddings, adapter.model.model.transformer["wte"](ids))


def test_the_way_of_cutting_is_a_switch(adapter, fixture):
    squashing = named(adapter, fixture)
    squashing.squash = True
    inputs = squashing.prepare_ids(fixture.picture, fixture.inputs["text_ids"])
    (view,) = inputs.views
    assert view.rectangles[0, 0, :2].tolist() == [0, 0]
    assert view.rectangles[-1, -1, 2:].tolist() == list(fixture.picture.size)
    plain = named(adapter, fixture).prepare_ids(fixture.picture, fixture.inputs["text_ids"])
    assert not torch.equal(inputs.pixels, plain.pixels)


def test_pictures_of_any_mode_are_read_as_rgb(adapter, fixture):
    palette, ids = fixture.picture.quantize(16), fixture.inputs["text_ids"]
    reader = named(adapter, fixture)
    assert torch.equal(
        reader.prepare_ids(palette, ids).embeddings,
        reader.prepare_ids(palette.convert("RGB"), ids).embeddings,
    )


def test_exactly_one_picture_is_read(adapter, fixture):
    ids = fixture.inputs["input_ids"]
    alone = adapter.prepare_ids([fixture.picture], ids)
    assert torch.equal(alone.embeddings, adapter.prepare_ids(fixture.picture, ids).embeddings)
    for pictures in ([], [fixture.picture] * 2):
        with pytest.raises(UsageError, match=rf"{len(pictures)} pictures are given: MMaDA reads exactly one"):
            adapter.prepare_ids(pictures, ids)


def test_a_picture_that_is_too_narrow(adapter):
    with pytest.raises(PictureError, match="2000x1 pixels is too narrow"):
        adapter.prepare_ids(Image.new("RGB", (2000, 1)), torch.zeros(1, 80, dtype=torch.int64))


# -- replay --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_states_in_one_batch_do_not_touch_each_other(adapter, inputs, fixture):
    states = fixture.inputs["state_ids"].repeat(3, 1)
    states[1, :4], states[2, 5:] = 7, 11
    every = torch.arange(states.shape[1])
    together = adapter.replay(inputs, states, every)
    apart = torch.cat([adapter.replay(inputs, state[None], every) for state in states])
    assert torch.allclose(together, apart, atol=1e-5)


@torch.no_grad()
def test_logits_at_some_positions_are_those_among_all(adapter, inputs, fixture):
    states = fixture.inputs["state_ids"]
    everywhere = adapter.replay(inputs, states, torch.arange(states.shape[1]))
    some = torch.tensor([9, 0, 3])
    assert torch.allclose(adapter.replay(inputs, states, some), everywhere[:, some], atol=1e-6)


def test_the_head_runs_at_the_asked_positions_only(adapter, inputs, fixture):
    rows = []
    head = adapter.model.model.transformer["ff_out"]
    handle = head.register_forward_hook(lambda module, args, out: rows.append(out.shape[1]))
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([1, 5]))
    handle.remove()
    assert rows == [2]


def test_replay_leaves_the_grad_mode_to_its_caller(adapter, inputs, fixture):
    state, position = fixture.inputs["state_ids"], torch.tensor([0])
    assert adapter.replay(inputs, state, position).requires_grad
    with torch.no_grad():
        assert not adapter.replay(inputs, state, position).requires_grad


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
@torch.no_grad()
def test_replayed_logits_are_those_by_which_the_model_decided(adapter, inputs, guidance_scale):
    sampler = adapter.default_sampler.merged(
        {"answer_length": 12, "block_length": 4, "steps": 6, "guidance_scale": guidance_scale}
    )
    trajectory = adapter.denoise(inputs, sampler)
    decided = (trajectory.commit_steps >= 0).nonzero()[:, 0].tolist()
    assert len(decided) > 6
    for position in decided:
        state = trajectory.states[trajectory.commit_steps[position]][None]
        logits = decision_logits(adapter, inputs, state, torch.tensor([position]), sampler)[0, 0]
        token = trajectory.final[position]
        assert logits.argmax() == token
        assert abs(logits[token] - trajectory.commit_logits[position]) <= 1e-5 * (1 + 2 * guidance_scale)


def test_inputs_prepared_in_inference_mode_can_be_differentiated_through(adapter, fixture):
    with torch.inference_mode():
        inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0])).sum().backward()
    adapter.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("path", ["blocks.2", "blocks.2.attn_norm", "blocks.0.attn_out", "ln_f"])
def test_modules_of_the_transformer_are_hook_points(adapter, inputs, fixture, path):
    shapes = []

    def record(module, args, output):
        shapes.append((output if isinstance(output, torch.Tensor) else output[0]).shape)

    module = adapter.model.get_submodule(adapter.layer_path(f"model.transformer.{path}"))
    handle = module.register_forward_hook(record)
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0]))
    handle.remove()
    assert shapes == [(1, inputs.prompt_length + 24, 48)]


def test_unconditional_replaces_the_whole_prompt_by_masks(adapter, inputs):
    empty = adapter.unconditional(inputs)
    mask = adapter.model.model.transformer["wte"].weight[adapter.mask_token_id]
    assert torch.equal(empty.embeddings[0], mask.expand(inputs.prompt_length, -1))
    assert not empty.embeddings.requires_grad


def test_there_is_no_prefix_to_cache(adapter, inputs, fixture):
    with pytest.raises(ConfigurationError, match="prefix"):
        adapter.encode_prefix(inputs)
    with pytest.raises(ConfigurationError, match=r"sampler\.cache"):
        adapter.denoise(inputs, SamplerSettings(answer_length=4, cache="prefix"))
    with pytest.raises(ConfigurationError, match="cannot be read from a prefix"):
        adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0]), Prefix(keys_values=[]))


# -- what the model is ---------------------------------------------------------------------------------------


def test_facts_about_the_model(adapter):
    assert (adapter.image_size, adapter.mask_token_id, len(adapter.blocks)) == (64, 290, 5)
    assert all(isinstance(block, nn.Module) for block in adapter.blocks)
    assert adapter.layer_path(-1) == "model.transformer.blocks.4"


def test_the_sampler_is_upstreams_and_suppresses_nothing(adapter, fixture):
    sampler = adapter.default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (128, 128, 128)
    assert (sampler.schedule, sampler.remasking, sampler.temperature) == ("uniform", "low-confidence", 0)
    assert sampler.suppressed_ids == sampler.stop_sequences == ()
    tokenizer = word_tokenizer()
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|endoftext|>")]
    speaking = named(adapter, fixture, tokenizer)
    assert speaking.default_sampler.stop_sequences == tuple((end,) for end in ends)


# -- wrapping ------------------------------------------------------------------------------------------------


def standing_in(fixture, **changes):
    model = StandIn({**fixture.config, **changes})
    model.load_state_dict(fixture.weights)
    return model, ImageTokenizerStandIn(fixture.folder / "vq")


@pytest.mark.parametrize("name", NAMES)
def test_models_that_are_not_ours_give_the_recorded_logits(name):
    fixture = read(name)
    model, vq = standing_in(fixture)
    wrapped = MMaDAAdapter.wrap(model, None, vq)
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert torch.equal(inputs.embeddings, fixture.expected["prompt_embeds"])
    states = fixture.inputs["state_ids"]
    every = torch.arange(states.shape[1])
    with torch.no_grad():
        logits = wrapped.replay(inputs, states, every)
        whole = model(input_ids=torch.cat([fixture.inputs["input_ids"], states], 1)).logits
    assert (logits - fixture.expected["logits"][:, -len(every) :]).abs().max() < 1e-4
    assert (logits - whole[:, -len(every) :]).abs().max() < 1e-5
    assert wrapped.model is model
    assert wrapped.vq is vq
    assert list(wrapped.blocks) == list(model.model.transformer["blocks"])
    assert wrapped.layer_path(1) == "model.transformer.blocks.1"
    assert wrapped.name == "StandIn"


def test_the_head_of_a_model_that_is_not_ours_runs_at_the_asked_positions_only(fixture):
    model, vq = standing_in(fixture)
    wrapped = MMaDAAdapter.wrap(model, None, vq)
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    rows = []
    model.model.transformer["ff_out"].register_forward_hook(
        lambda module, args, out: rows.append(out.shape[1])
    )
    wrapped.replay(inputs, fixture.inputs["state_ids"], torch.tensor([1, 5]))
    assert rows == [2]
    hooked = [path for path, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    assert hooked == ["model.transformer.ff_out"]
    assert not model.model.transformer["ff_out"]._forward_pre_hooks


@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_models_that_are_not_ours_are_the_recorded_ones(name):
    fixture = read(name)
    model, vq = standing_in(fixture)
    wrapped = MMaDAAdapter.wrap(model, None, vq)
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    recorded, state = fixture.facts["probe"], fixture.inputs["state_ids"][0]
    reading = Reading(
        state=state,
        positions=(recorded["position"] - inputs.prompt_length,),
        token_ids=(recorded["vocab"],),
        objective=GradientTarget(lambda logits, ids: logits[0, ids[0]]),
    )
    everywhere = torch.arange(inputs.prompt_length + len(state))
    settings = SamplerSettings(answer_length=len(state))
    with untouched(model):
        layer = wrapped.layer_path(recorded["block"])
        (probed,) = probe(wrapped, inputs, layer, [reading], everywhere, settings)
    assert (probed.gradients - fixture.expected["grad"]).abs().max() < 1e-5
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_lora_adapters_take_part(fixture):
    model, vq = standing_in(fixture)
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    wrapped = MMaDAAdapter.wrap(tuned.eval(), None, vq)
    assert wrapped.model is model
    assert wrapped.layer_path(1) == "model.transformer.blocks.1"
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    states = fixture.inputs["state_ids"]
    logits = wrapped.replay(inputs, states, torch.arange(states.shape[1]))
    whole = tuned(input_ids=torch.cat([fixture.inputs["input_ids"], states], 1)).logits
    assert torch.allclose(logits, whole[:, inputs.prompt_length :], atol=1e-4)
    with tuned.disable_adapter():
        assert not torch.allclose(
            logits, wrapped.replay(inputs, states, torch.arange(states.shape[1])), atol=0.01
        )


def test_bfloat16_models_read_codes_of_a_float32_image_tokenizer(fixture):
    model, vq = standing_in(fixture)
    wrapped = MMaDAAdapter.wrap(model.bfloat16(), None, vq)
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert (inputs.embeddings.dtype, inputs.pixels.dtype) == (torch.bfloat16, torch.float32)
    assert wrapped.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0])).dtype == torch.float32


def test_compiled_wrappers_come_off(fixture):
    model, vq = standing_in(fixture)
    assert MMaDAAdapter.wrap(torch.compile(model), None, torch.compile(vq)).model is model


def test_a_configuration_given_by_hand_wins(fixture):
    model, vq = standing_in(fixture)
    assert (
        MMaDAAdapter.wrap(model, None, vq, config={**fixture.config, "mask_token_id": 9}).mask_token_id == 9
    )
    model.config = None
    with pytest.raises(CheckpointError, match=r"no \.config"):
        MMaDAAdapter.wrap(model, None, vq)


def test_the_image_tokenizer_must_be_given(fixture):
    model, _ = standing_in(fixture)
    with pytest.raises(CheckpointError, match=r"image_processor is NoneType.*MAGVIT-v2 image tokenizer"):
        MMaDAAdapter.wrap(model)


def test_module_trees_of_other_families(fixture):
    model, vq = standing_in(fixture)
    with pytest.raises(CheckpointError, match=r"Linear has no module encoder\.down.*MAGVIT-v2"):
        MMaDAAdapter.wrap(model, None, nn.Linear(2, 2))
    del model.model.transformer["ff_out"]
    with pytest.raises(CheckpointError, match=r"StandIn has no module model\.transformer\.ff_out"):
        MMaDAAdapter.wrap(model, None, vq)
    with pytest.raises(CheckpointError, match=r"no module model\.transformer\.blocks"):
        MMaDAAdapter.wrap(nn.Module(), None, vq, config=fixture.config)


def test_an_image_tokenizer_with_another_number_of_codes(fixture):
    model, vq = standing_in(fixture)
    config = {**fixture.config, "codebook_size": 32}
    with pytest.raises(CheckpointError, match=r"64 codes \(6 bits\), the language model 32 \(codebook_size"):
        MMaDAAdapter.wrap(model, None, vq, config=config)


def test_an_image_tokenizer_that_makes_another_number_of_tokens(fixture):
    model, vq = standing_in(fixture)
    vq.get_code = lambda pixels: torch.zeros(1, 16, dtype=torch.int64)
    wrapped = MMaDAAdapter.wrap(model, None, vq)
    with pytest.raises(CheckpointError, match=r"16 codes of 64x64 pixels.*reads 64 \(num_vq_tokens\)"):
        wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
