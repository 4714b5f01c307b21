"""LLaDA-V's adapter: what it prepares, what it replays, and around which models it goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.llada_v import NAMES, StandIn, read, word_tokenizer
from torch import nn

from dcam_adapters.common.module_tree import first_tensor
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.layout import picture_layout
from dcam_core.denoising import decision_logits
from dcam_core.errors import CheckpointError, ConfigurationError, PictureError, UsageError


@pytest.fixture(scope="module")
def fixture():
    return read("b")


@pytest.fixture(scope="module")
def adapter(fixture):
    return LLaDAVAdapter.load(fixture.folder)


@pytest.fixture(scope="module")
def inputs(adapter, fixture):
    return adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


@pytest.fixture
def speaking(fixture):
    """The adapter with a tokenizer of 18 words."""
    adapter = LLaDAVAdapter.load(fixture.folder)
    adapter.tokenizer = word_tokenizer()
    return adapter


# -- replay --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_states_in_one_batch_do_not_touch_each_other(adapter, inputs, fixture):
    states = fixture.inputs["state_ids"].repeat(3, 1)
    states[1, :4], states[2] = 7, adapter.mask_token_id
    every = torch.arange(12)
    together = adapter.replay(inputs, states, every)
    apart = torch.cat([adapter.replay(inputs, state[None], every) for state in states])
    assert torch.allclose(together, apart, atol=1e-5)


@torch.no_grad()
def test_logits_at_some_positions_are_those_among_all(adapter, inputs, fixture):
    states = fixture.inputs["state_ids"]
    everywhere = adapter.replay(inputs, states, torch.arange(12))
    some = torch.tensor([9, 0, 3])
    assert torch.allclose(adapter.replay(inputs, states, some), everywhere[:, some], atol=1e-6)


def test_the_head_runs_at_the_asked_positions_only(adapter, inputs, fixture):
    rows = []
    handle = adapter.model.lm_head.register_forward_hook(lambda module, args, out: rows.append(out.shape[1]))
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([1, 5]))
    handle.remove()
    assert rows == [2]


def test_replay_leaves_the_grad_mode_to_its_caller(adapter, inputs, fixture):
    state, position = fixture.inputs["state_ids"], torch.tensor([0])
    assert adapter.replay(inputs, state, position).requires_grad
    with torch.no_grad():
        assert not adapter.replay(inputs, state, position).requires_grad


@pytest.mark.parametrize("block_length", [None, 4])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
@torch.no_grad()
def test_replayed_logits_are_those_by_which_the_model_decided(adapter, inputs, block_length, guidance_scale):
    sampler = adapter.default_sampler.merged(
        {
            "answer_length": 12,
            "block_length": block_length or 12,
            "steps": 6,
            "guidance_scale": guidance_scale,
        }
    )
    trajectory = adapter.denoise(inputs, sampler)
    assert (trajectory.commit_steps >= 0).all()
    for position, step in enumerate(trajectory.commit_steps.tolist()):
        state, where = trajectory.states[step][None], torch.tensor([position])
        logits = decision_logits(adapter, inputs, state, where, sampler)[0, 0]
        decided = trajectory.final[position]
        assert logits.argmax() == decided
        assert abs(logits[decided] - trajectory.commit_logits[position]) <= 1e-5


def test_inputs_prepared_in_inference_mode_can_be_differentiated_through(adapter, fixture):
    with torch.inference_mode():
        inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0])).sum().backward()
    adapter.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    "path",
    ["model.layers.2", "model.layers.2.input_layernorm", "model.layers.0.self_attn", "model.layers.3.mlp"],
)
def test_modules_of_a_block_are_hook_points(adapter, inputs, fixture, path):
    shapes = []
    module = adapter.model.get_submodule(adapter.layer_path(path))
    handle = module.register_forward_hook(
        lambda module, args, output: shapes.append(first_tensor(output).shape)
    )
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([0]))
    handle.remove()
    assert shapes == [(1, inputs.prompt_length + 12, 64)]


def test_unconditional_replaces_the_whole_prompt_by_masks(adapter, inputs):
    empty = adapter.unconditional(inputs)
    mask = adapter.model.model.embed_tokens.weight[adapter.mask_token_id]
    assert empty.embeddings.shape == inputs.embeddings.shape
    assert torch.equal(empty.embeddings[0], mask.expand(inputs.prompt_length, -1))
    assert not empty.embeddings.requires_grad


# -- preparing -----------------------------------------------------------------------------------------------


def test_image_tokens_stand_where_the_views_say(adapter, inputs, fixture):
    projected = fixture.expected["vision.projected"]
    base, grid = inputs.views
    assert torch.allclose(inputs.embeddings[0, base.positions.flatten()], projected[0], atol=2e-5)
    # One tile, nothing unpadded: the grid shows the tile's tokens as they are.
    assert torch.allclose(inputs.embeddings[0, grid.positions.flatten()], projected[1], atol=2e-5)
    assert inputs.picture_sizes == ((28, 28),)


def test_pictures_and_their_places_must_be_as_many(adapter, fixture):
    for ids, found in (([[5, 6]], 0), ([[5, -200, 6, -200]], 2)):
        with pytest.raises(UsageError, match=rf"has {found} places for a picture.*1 pictures are given"):
            adapter.prepare_ids(fixture.picture, torch.tensor(ids))
    with pytest.raises(UsageError, match=r"has 0 places for a picture.*0 pictures are given"):
        adapter.prepare_ids([], torch.tensor([[5, 6]]))


def test_several_pictures_are_padded_to_one_crop_each(adapter, fixture):
    wide = fixture.picture.resize((40, 20))
    inputs = adapter.prepare_ids([fixture.picture, wide], torch.tensor([[5, -200, 6, 7, -200, 8]]))
    assert inputs.picture_sizes == ((28, 28), (40, 20))
    assert [(view.name, view.picture) for view in inputs.views] == [("base", 0), ("base", 1)]
    first, second = (view.positions for view in inputs.views)
    assert (first[0, 0], first[-1, -1]) == (1, 16)  # then a newline, and two words
    assert (second[0, 0], second[-1, -1]) == (20, 35)
    assert inputs.image_span == (1, 37)
    assert inputs.prompt_length == 38
    assert inputs.pixels.shape == (2, 3, 30, 30)
    embedding = adapter.model.model.embed_tokens.weight
    assert torch.equal(inputs.embeddings[0, [0, 18, 19, 37]], embedding[[5, 6, 7, 8]])
    assert torch.equal(inputs.embeddings[0, [17, 36]], adapter.model.model.image_newline.expand(2, -1))
    alone = adapter.prepare_ids([wide], torch.tensor([[-200]]))
    padded = picture_layout(adapter.config, wide.size, padded=True)
    assert torch.equal(inputs.views[1].rectangles, padded.views(0)[0].rectangles)
    assert alone.views[0].picture == 0


def test_several_pictures_may_keep_their_own_splitting(fixture):
    adapter = LLaDAVAdapter.load(fixture.folder)
    adapter.pad_several = False
    alone = adapter.prepare_ids(fixture.picture, torch.tensor([[-200]])).embeddings
    both = adapter.prepare_ids([fixture.picture, fixture.picture], torch.tensor([[-200, 6, -200]]))
    assert [(view.name, view.picture) for view in both.views] == [
        (name, picture) for picture in (0, 1) for name in ("base", "grid")
    ]
    assert torch.allclose(both.embeddings[0, :36], alone[0], atol=1e-6)
    assert torch.allclose(both.embeddings[0, 37:], alone[0], atol=1e-6)


def test_several_pictures_and_a_prompt_in_words(speaking, fixture):
    pair = [fixture.picture, fixture.picture]
    inputs = speaking.prepare(pair, "is <image> a <image> ?")
    assert len(inputs.picture_sizes) == 2
    # Without a place of their own they come first, one after the other.
    first, second = (view.positions for view in speaking.prepare(pair, "what is this ?").views)
    assert second[0, 0] == first[-1, -1] + 2
    with pytest.raises(UsageError, match=r"1 places for a picture.*2 pictures are given"):
        speaking.prepare(pair, "is this <image> red ?")


def test_a_prompt_that_is_too_long(fixture):
    config = LLaDAVConfig.from_dict({**fixture.config, "tokenizer_model_max_length": 63})
    short = LLaDAVAdapter(StandIn(fixture.config), config)
    with pytest.raises(UsageError, match=r"64 tokens long with its pictures \(36 of them\).*reads 63"):
        short.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


def test_a_picture_without_a_single_row_of_tokens(adapter):
    with pytest.raises(PictureError, match="2000x1 pixels is too narrow"):
        adapter.prepare_ids(Image.new("RGB", (2000, 1)), torch.tensor([[-200]]))


def test_pictures_of_any_mode_are_read_as_rgb(adapter, fixture):
    palette = fixture.picture.quantize(16)
    ids = fixture.inputs["input_ids"]
    assert torch.equal(
        adapter.prepare_ids(palette, ids).embeddings,
        adapter.prepare_ids(palette.convert("RGB"), ids).embeddings,
    )


def test_a_prompt_in_words(speaking, fixture):
    inputs = speaking.prepare(fixture.picture, "what is this ?")
    assert inputs.prompt == "what is this ?"
    start, end = inputs.image_span
    assert end - start == 36
    embedding = speaking.model.model.embed_tokens
    before, after = (speaking.tokenizer.convert_tokens_to_ids(token) for token in ("\n\n", "\n"))
    assert torch.equal(inputs.embeddings[0, start - 1], embedding.weight[before])
    assert torch.equal(inputs.embeddings[0, end], embedding.weight[after])
    speaking.drop_first_token_after_image = True
    assert speaking.prepare(fixture.picture, "what is this ?").prompt_length == inputs.prompt_length - 1


def test_a_prompt_in_words_needs_a_tokenizer(adapter, fixture):
    with pytest.raises(CheckpointError, match=r"no tokenizer.*prepare_ids"):
        adapter.prepare(fixture.picture, "what is this ?")


@torch.no_grad()
def test_logits_beyond_the_tokenizer_are_left_out(speaking, inputs, fixture):
    state, position = fixture.inputs["state_ids"], torch.tensor([2])
    trimmed = speaking.replay(inputs, state, position)
    speaking.trim_vocabulary = False
    whole = speaking.replay(inputs, state, position)
    assert (trimmed.shape[-1], whole.shape[-1]) == (len(speaking.tokenizer), 320)
    assert torch.equal(trimmed, whole[..., : len(speaking.tokenizer)])


# -- wrapping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_not_ours_gives_the_recorded_logits(name):
    fixture = read(name)
    model = StandIn(fixture.config)
    model.load_state_dict(fixture.weights)
    wrapped = LLaDAVAdapter.wrap(model)
    inputs = wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    assert torch.allclose(inputs.embeddings, fixture.expected["prompt_embeds"], atol=2e-5)
    length = fixture.inputs["state_ids"].shape[1]
    with torch.no_grad():
        logits = wrapped.replay(inputs, fixture.inputs["state_ids"], torch.arange(length))
    assert (logits - fixture.expected["logits"][:, -length:]).abs().max() < 1e-4
    assert wrapped.model is model
    assert list(wrapped.blocks) == list(model.model.layers)
    assert wrapped.layer_path(1) == "model.layers.1"
    assert wrapped.name == "StandIn"


def test_a_configuration_given_by_hand_wins(fixture):
    model = StandIn(fixture.config)
    assert LLaDAVAdapter.wrap(model, config={**fixture.config, "mask_token_id": 9}).mask_token_id == 9
    model.config = None
    with pytest.raises(CheckpointError, match=r"no \.config"):
        LLaDAVAdapter.wrap(model)


def test_a_module_tree_of_another_family(fixture):
    model = StandIn(fixture.config)
    del model.model.mm_projector
    with pytest.raises(CheckpointError, match=r"StandIn has no module model\.mm_projector"):
        LLaDAVAdapter.wrap(model)


def test_a_tower_that_does_not_fit_the_configuration(fixture):
    without = {name: value for name, value in fixture.config.items() if name != "vision_config"}
    with pytest.raises(CheckpointError, match=r"tower has 16 patch positions.*makes 729"):
        LLaDAVAdapter.wrap(StandIn(fixture.config), config=without)


def test_a_backbone_that_puts_out_no_tensor(fixture):
    model = StandIn(fixture.config)
    wrapped = LLaDAVAdapter.wrap(model)
    model.model.vision_tower.forward = lambda pixels: ({"features": pixels},)
    with pytest.raises(CheckpointError, match="does not begin with a tensor"):
        wrapped.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


class Processor:
    """The form of transformers' image processors; the original's returns a list of arrays."""

    def __init__(self, side: int) -> None:
        self.side = side

    def preprocess(self, images, return_tensors):
        assert return_tensors == "pt"
        arrays = [np.asarray(image.resize((self.side, self.side)), dtype=np.float32) for image in images]
        return {"pixel_values": [(array.transpose(2, 0, 1) / 255 - 0.5) / 0.5 for array in arrays]}


def test_an_image_processor_takes_the_place_of_the_familys_arithmetic(fixture):
    model = StandIn(fixture.config)
    model.load_state_dict(fixture.weights)
    inputs = LLaDAVAdapter.wrap(model, None, Processor(30)).prepare_ids(
        fixture.picture, fixture.inputs["input_ids"]
    )
    assert torch.allclose(inputs.embeddings, fixture.expected["prompt_embeds"], atol=2e-5)
    wrong = LLaDAVAdapter.wrap(model, None, Processor(28))
    with pytest.raises(
        ConfigurationError, match=r"makes \[1, 3, 28, 28\] of 1 crops.*reads \[1, 3, 30, 30\]"
    ):
        wrong.prepare_ids(fixture.picture, fixture.inputs["input_ids"])


def test_ids_that_cannot_be_chosen_need_no_suppression(fixture):
    assert LLaDAVAdapter.wrap(StandIn(fixture.config)).default_sampler.suppressed_ids == ()
    config = {**fixture.config, "suppressed_token_ids": [301, 5]}
    model = StandIn(fixture.config)
    assert LLaDAVAdapter.wrap(model, config=config).default_sampler.suppressed_ids == (301, 5)
    assert LLaDAVAdapter.wrap(model, word_tokenizer(), config=config).default_sampler.suppressed_ids == (5,)


def test_blocks_are_modules_in_order(adapter):
    assert all(isinstance(block, nn.Module) for block in adapter.blocks)
    assert len(adapter.blocks) == 4
    assert adapter.image_size == 30
