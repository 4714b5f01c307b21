"""LaViDa's adapters: prefix caching, Dream's shift, and what around the originals' module trees."""

from __future__ import annotations

import pytest
import torch
from support.lavida import NAMES, PrefixCache, read, stand_in
from support.llada_v import word_tokenizer

from dcam_adapters.common.language import OriginalLlama, OriginalOlmo, OwnLanguageModel
from dcam_adapters.lavida.adapter import LaViDaAdapter, LaViDaDreamAdapter
from dcam_core.denoising import decision_logits
from dcam_core.errors import CheckpointError, ConfigurationError

ADAPTERS = {"a": LaViDaAdapter, "b": LaViDaAdapter, "dream": LaViDaDreamAdapter}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.fixture(scope="module", params=NAMES)
def fixture(request):
    found = read(request.param)
    found.name = request.param
    return found


@pytest.fixture(scope="module")
def adapter(fixture):
    return ADAPTERS[fixture.name].load(fixture.folder)


@pytest.fixture(scope="module")
def inputs(adapter, fixture):
    return adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


@pytest.fixture
def original(fixture):
    """An adapter around a model that is not ours."""
    return ADAPTERS[fixture.name].wrap(stand_in(fixture))


# -- prefix caching and the shift ----------------------------------------------------------------------------


@torch.no_grad()
def test_a_prefix_serves_a_batch_of_states(adapter, inputs, fixture):
    length = fixture.inputs["state_ids"].shape[1]
    states = fixture.inputs["state_ids"].repeat(3, 1)
    states[1, :4], states[2] = 7, adapter.mask_token_id
    prefix, every = adapter.encode_prefix(inputs), torch.arange(length)
    together = adapter.replay(inputs, states, every, prefix)
    apart = torch.cat([adapter.replay(inputs, state[None], every, prefix) for state in states])
    assert torch.allclose(together, apart, atol=1e-5)
    assert not torch.allclose(together[1, 5:], together[2, 5:], atol=1e-3)
    some = torch.tensor([9, 0, 3])
    assert torch.allclose(adapter.replay(inputs, states, some, prefix), together[:, some], atol=1e-5)


@torch.no_grad()
def test_with_a_prefix_the_prompt_does_not_see_the_answer(adapter, inputs, fixture):
    states = fixture.inputs["state_ids"]
    every = torch.arange(states.shape[1])
    with_prefix = adapter.replay(inputs, states, every, adapter.encode_prefix(inputs))
    whole = adapter.replay(inputs, states, every)
    first = adapter.prediction_shift
    assert not torch.allclose(with_prefix[:, first:], whole[:, first:], atol=1e-3)


@torch.no_grad()
def test_an_empty_looking_answer_costs_only_its_own_rows(adapter, inputs, fixture):
    rows = []
    handle = adapter.blocks[0].register_forward_hook(lambda module, args, out: rows.append(out[0].shape[1]))
    prefix = adapter.encode_prefix(inputs)
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([1]), prefix)
    handle.remove()
    assert rows == [inputs.prompt_length, fixture.inputs["state_ids"].shape[1]]


def test_gradients_reach_the_prompt_through_keys_and_values(adapter, inputs, fixture):
    kept = []

    def keep(module, args, output):
        output[0].retain_grad()
        kept.append(output[0])

    handles = [block.register_forward_hook(keep) for block in adapter.blocks]
    prefix = adapter.encode_prefix(inputs)
    for handle in handles:
        handle.remove()
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([3]), prefix).sum().backward()
    adapter.model.zero_grad(set_to_none=True)
    image = slice(*inputs.image_span)
    assert all(hidden.grad[0, image].abs().max() > 0 for hidden in kept[:-1])
    # What the last block puts out for the prompt is read by nobody.
    assert kept[-1].grad is None


@torch.no_grad()
def test_the_prompts_last_row_predicts_dreams_first_token():
    fixture = read("dream")
    adapter = LaViDaDreamAdapter.load(fixture.folder)
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    states = fixture.inputs["state_ids"]
    raw = fixture.expected["logits"][:, inputs.prompt_length - 1 : -1]
    assert torch.allclose(adapter.replay(inputs, states, torch.arange(12)), raw, atol=1e-4)
    prefix = adapter.encode_prefix(inputs)
    assert prefix.first_logits.shape == (1, 400)
    found = adapter.replay(inputs, states.repeat(2, 1), torch.tensor([2, 0]), prefix)
    assert torch.equal(found[:, 1], prefix.first_logits.expand(2, -1))
    assert torch.allclose(found[:1, 0], fixture.expected["prefix.logits"][:, 1], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "prefix"])
def test_replayed_logits_are_those_by_which_the_model_decided(adapter, inputs, cache):
    sampler = adapter.default_sampler.merged(
        {"answer_length": 12, "block_length": 12, "steps": 6, "cache": cache}
    )
    trajectory = adapter.denoise(inputs, sampler)
    assert (trajectory.commit_steps >= 0).all()
    for position, step in enumerate(trajectory.commit_steps.tolist()):
        state, where = trajectory.states[step][None], torch.tensor([position])
        logits = decision_logits(adapter, inputs, state, where, sampler)[0, 0]
        decided = trajectory.final[position]
        assert logits.argmax() == decided
        assert abs(logits[decided] - trajectory.commit_logits[position]) <= 1e-5


# -- around the originals ------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_that_is_not_ours_gives_the_recorded_logits(original, fixture):
    inputs = original.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert torch.allclose(inputs.embeddings, fixture.expected["prompt_embeds"], atol=2e-5)
    states, shift = fixture.inputs["state_ids"], original.prediction_shift
    every = torch.arange(states.shape[1])
    found = original.replay(inputs, states, every)
    start = inputs.prompt_length - shift
    assert (found - fixture.expected["logits"][:, start : start + len(every)]).abs().max() < 1e-4
    assert original.caches == ("prefix",)
    prefix = original.encode_prefix(inputs)
    found = original.replay(inputs, states.repeat(2, 1), every[shift:], prefix)
    recorded = fixture.expected["prefix.logits"][:, : len(every) - shift]
    assert (found - recorded).abs().max() < 1e-4
    # The cache is read by every step of a run: it stays what the prompt made of it.
    assert torch.equal(original.replay(inputs, states.repeat(2, 1), every[shift:], prefix), found)


def test_gradients_are_the_recorded_ones_though_the_original_checkpoints(original, fixture):
    """The head at one row, no checkpointing: a hook sees the tensor that is differentiated."""
    facts = fixture.facts["probe"]
    inputs = original.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    states, kept, rows = fixture.inputs["state_ids"], [], []

    def keep(module, args, output):
        output[0].retain_grad()
        kept.append(output[0])

    head = original.model.get_submodule(original.paths.head)
    handles = [
        original.blocks[facts["block"]].register_forward_hook(keep),
        head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1])),
    ]
    position = facts["position"] - inputs.prompt_length + original.prediction_shift
    logits = original.replay(inputs, states, torch.tensor([position]))
    logits[0, 0, facts["vocab"]].backward()
    for handle in handles:
        handle.remove()
    assert rows == [1]
    assert (kept[0].grad - fixture.expected["grad"]).abs().max() < 1e-5
    if fixture.name != "dream":
        assert original.model.model.activation_checkpointing_strategy == "whole_layer"


def test_prefix_gradients_are_the_recorded_ones(original, fixture):
    facts = fixture.facts["probe"]
    inputs = original.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    kept = []

    def keep(module, args, output):
        output[0].retain_grad()
        kept.append(output[0])

    handle = original.blocks[facts["block"]].register_forward_hook(keep)
    prefix = original.encode_prefix(inputs)
    handle.remove()
    position = torch.tensor([facts["prefix_position"] + original.prediction_shift])
    logits = original.replay(inputs, fixture.inputs["state_ids"], position, prefix)
    logits[0, 0, facts["vocab"]].backward()
    assert (kept[0].grad - fixture.expected["prefix.grad"]).abs().max() < 1e-5


def test_each_signature_has_its_caller(adapter, original, fixture):
    assert type(adapter._language) is OwnLanguageModel
    assert type(original._language) is (OriginalLlama if fixture.name == "dream" else OriginalOlmo)


def test_a_cache_of_a_kind_that_cannot_be_read():
    fixture = read("dream")
    original = LaViDaDreamAdapter.wrap(stand_in(fixture))
    inputs = original.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    prefix = original.encode_prefix(inputs)
    assert isinstance(prefix.keys_values, PrefixCache)
    object.__setattr__(prefix, "keys_values", object())
    with pytest.raises(ConfigurationError, match=r"keeps its keys and values in a object.*sampler\.cache"):
        original.replay(inputs, fixture.inputs["state_ids"], torch.tensor([2]), prefix)


# -- pictures ------------------------------------------------------------------------------------------------


def test_checkpoints_that_were_trained_without_pooling():
    fixture = read("a")
    adapter = LaViDaAdapter.load(fixture.folder)
    adapter.pooled = False
    inputs = adapter.prepare_ids(fixture.picture, torch.tensor([[5, -200, 6]]))
    base, grid = inputs.views
    assert base.grid == (5, 5)
    projected = fixture.expected["vision.projected"]
    assert torch.allclose(inputs.embeddings[0, base.positions.flatten()], projected[0], atol=2e-5)
    # 150x100 on a canvas of 152x152: ten rows of patches, of which int(100 * 10 / 150) = 6 show the picture.
    assert grid.grid == (6, 10)
    assert inputs.image_span == (1, 1 + 25 + 6 * 11)


@pytest.mark.parametrize("mode", ["average", "max"])
def test_other_ways_of_pooling_round_down(mode):
    fixture = read("a")
    fixture.config["mm_spatial_pool_mode"] = mode
    adapter = LaViDaAdapter.wrap(stand_in(fixture), config=fixture.config)
    inputs = adapter.prepare_ids(fixture.picture, torch.tensor([[-200]]))
    assert inputs.views[0].grid == (2, 2)
    tokens = fixture.expected["vision.projected"][0].unflatten(0, (5, 5))
    corner = tokens[:2, :2].flatten(0, 1)
    expected = corner.mean(0) if mode == "average" else corner.amax(0)
    assert torch.allclose(inputs.embeddings[0, 0], expected, atol=2e-5)


def test_a_squashed_picture():
    fixture = read("a")
    fixture.config["image_aspect_ratio"] = None
    adapter = LaViDaAdapter.wrap(stand_in(fixture), config=fixture.config)
    inputs = adapter.prepare_ids(fixture.picture, torch.tensor([[-200]]))
    (base,) = inputs.views
    assert (base.name, base.grid, inputs.prompt_length) == ("base", (3, 3), 10)
    # 70 of 76 pixels are seen; the crop is the picture, so they are 70/76 of its 150x100.
    assert base.rectangles[-1, -1].tolist() == pytest.approx(
        [150 * 70 / 76 * 2 / 3, 100 * 70 / 76 * 2 / 3, 150 * 70 / 76, 100 * 70 / 76]
    )
    base_of_anyres = fixture.expected["pixel_values"][0]
    assert torch.equal(inputs.pixels[0], base_of_anyres)


def test_several_pictures_are_padded_and_each_ends_with_a_newline(adapter, fixture):
    inputs = adapter.prepare_ids([fixture.picture] * 2, torch.tensor([[5, -200, 6, -200]]))
    cells = adapter._pooling.cells
    assert [(view.name, view.picture, view.grid) for view in inputs.views] == [
        ("base", picture, (cells, cells)) for picture in (0, 1)
    ]
    assert inputs.image_span == (1, 2 + 2 * (cells**2 + 1))
    newline = adapter.model.model.image_newline
    assert torch.equal(inputs.embeddings[0, [cells**2 + 1, -1]], newline.expand(2, -1))


# -- settings ------------------------------------------------------------------------------------------------


def test_llada_defaults_are_those_of_the_original():
    adapter = LaViDaAdapter.load(read("b").folder)
    sampler = adapter.default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (128, 128, 128)
    assert (sampler.schedule, sampler.remasking, sampler.temperature) == ("uniform", "low-confidence", 0)
    assert (sampler.suppressed_ids, sampler.stop_sequences, sampler.cache) == ((), (), None)
    adapter.tokenizer = word_tokenizer()
    adapter.tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>", "<|endoftext|>"]})
    ends = adapter.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|endoftext|>"])
    assert adapter.default_sampler.stop_sequences == tuple((token,) for token in ends)


def test_dreams_defaults_are_those_of_the_original():
    sampler = LaViDaDreamAdapter.load(read("dream").folder).default_sampler
    assert (sampler.answer_length, sampler.block_length, sampler.steps) == (512, None, None)
    assert (sampler.schedule, sampler.remasking, sampler.top_k) == ("timesteps", "entropy", 50)


@torch.no_grad()
def test_the_vocabulary_is_trimmed_on_dream_only(fixture):
    adapter = ADAPTERS[fixture.name].load(fixture.folder)
    adapter.tokenizer = word_tokenizer()
    adapter.tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    logits = adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0, 2]))
    rows = len(fixture.expected["logits"][0, 0])
    assert logits.shape[-1] == (len(adapter.tokenizer) if fixture.name == "dream" else rows)
    if fixture.name == "dream":
        assert adapter.encode_prefix(inputs).first_logits.shape == (1, len(adapter.tokenizer))


def test_dreams_prompt_in_words():
    fixture = read("dream")
    adapter = LaViDaDreamAdapter.load(fixture.folder)
    adapter.tokenizer = word_tokenizer()
    with pytest.raises(CheckpointError, match=r"no '<\|im_end\|>' token, which ends LaViDa's answers"):
        _ = adapter.default_sampler
    adapter.tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    inputs = adapter.prepare(fixture.picture, "what is this ?")
    _, end = inputs.image_span
    embedding = adapter.model.model.embed_tokens.weight
    after = adapter.tokenizer.convert_tokens_to_ids("\n")
    assert torch.equal(inputs.embeddings[0, end], embedding[after])
    assert adapter.tokenizer.convert_tokens_to_ids("<|im_start|>") is not None
    assert torch.equal(
        inputs.embeddings[0, 0], embedding[adapter.tokenizer.convert_tokens_to_ids("<|im_start|>")]
    )


def test_unconditional_replaces_the_whole_prompt_by_masks(adapter, inputs):
    empty = adapter.unconditional(inputs)
    mask = adapter.model.get_submodule(adapter.paths.embedding).weight[adapter.mask_token_id]
    assert torch.equal(empty.embeddings[0], mask.expand(inputs.prompt_length, -1))
