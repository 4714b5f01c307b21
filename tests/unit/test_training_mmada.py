"""The recipe of tiny-mmada: its image tokenizer, what its language stage computes, and the folder it leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcam_adapters.embedded.training import scenes as scene_arrays
from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.curriculum import CURRICULUM
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.mmada import FRAME_TOKENS, MMaDAStudent, miniature_mmada, train_mmada
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.prompts import PromptIds
from dcam_adapters.embedded.training.segments import PackedBatches
from dcam_adapters.embedded.training.vq import PictureTokenizerStage
from dcam_adapters.mmada.adapter import MMaDAAdapter
from dcam_adapters.mmada.magvit import Magvit, MagvitConfig
from dcam_core.placement import Placement
from dcam_plugins.scenes import Scenes

TINY = MagvitConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=(0, 0, 0, 1), z_channels=6)


@pytest.fixture(scope="module")
def rendered():
    """Six scenes as arrays, drawn in this process: workers would take longer to start than to draw."""
    labelled = scene_arrays._Labelled(Scenes, "train", 6, 96, 8)
    drawn = [labelled[index] for index in range(6)]
    return scene_arrays.SceneArrays(*(np.stack(part) for part in zip(*drawn, strict=True)))


# -- stage 1 -----------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer_stage():
    torch.manual_seed(0)
    return PictureTokenizerStage(TINY, len(Scenes.shapes), len(Scenes.colours), Schedule(steps=10, batch=2))


def test_what_the_bits_tell_depends_on_signs_alone(tokenizer_stage, rendered):
    pixels = rendered.batch(np.arange(2), mirrored=False)[0]
    values, _, told = tokenizer_stage(pixels)
    bits = torch.where(values > 0, 1.0, -1.0)
    assert torch.allclose(told, tokenizer_stage.code_heads(bits), atol=1e-5)
    # The same bits are those of the codes.
    codes = tokenizer_stage.tokenizer(pixels)
    assert torch.equal(tokenizer_stage.tokenizer.quantize.embedding[codes].flatten(0, 1), bits)


def test_the_gradient_passes_the_sign(tokenizer_stage, rendered):
    pixels, patches, _ = rendered.batch(np.arange(2), mirrored=False)
    _, _, told = tokenizer_stage(pixels)
    loss, shape = tokenizer_stage._loss(told, patches.flatten(0, 2), offset_weight=1.0)
    loss.backward()
    assert 0 < shape < loss
    assert tokenizer_stage.tokenizer.encoder.conv_in.weight.grad.abs().max() > 0
    assert tokenizer_stage.feature_heads.weight.grad is None


def test_bits_learn_to_tell_shapes(tokenizer_stage, rendered, monkeypatch):
    """A few steps on two scenes: the loss of what the bits tell falls."""
    monkeypatch.setattr(tokenizer_stage, "log_dict", lambda *args, **options: None)
    batch = rendered.batch(np.arange(2), mirrored=False)[:2]
    optimiser = torch.optim.AdamW(tokenizer_stage.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = tokenizer_stage.training_step(batch, 0)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# -- stage 2 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage():
    """A language stage of untrained, tiny size."""
    recipe = miniature_mmada()
    tokenizer = build_tokenizer(Scenes.shapes, Scenes.colours)
    tokenizer.add_tokens(list(FRAME_TOKENS), special_tokens=True)
    torch.manual_seed(0)
    vq = Magvit(recipe.magvit).eval()
    student = MMaDAStudent(recipe.config(tokenizer), tokenizer, recipe.generation, vq)
    student.initialise(torch.zeros(1, 3, 96, 96))
    prompts = PromptIds(tokenizer, student.frame, recipe.answer_length, Scenes.shapes)
    conversations = Conversations(Scenes.shapes, Scenes.colours)
    built = LanguageStage(student, prompts, conversations, Scenes("validation", 2), recipe.language).eval()
    # Initial attention is so flat that a wrong mask would hardly show.
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.mul_(4)
    return built, tokenizer, prompts


@torch.no_grad()
def test_training_computes_what_the_adapter_computes(stage, rendered):
    stage, tokenizer, prompts = stage
    adapter = stage.student.adapter()
    batches = PackedBatches(
        rendered, stage.conversations, prompts, views=1, size=2, curriculum=CURRICULUM, steps=100, seed=1
    )
    batch = next(batch for batch in (batches.batch(number) for number in range(100)) if not batch.packed)
    (logits,) = stage.logits(batch)
    for row, pixels in enumerate(batch.pixels):
        ids, _, rows, _, _ = (part[row, 0] for part in batch.groups[0])
        picture = Image.fromarray(((pixels.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
        question = tokenizer.decode(ids[: rows[1] - 4])  # without the end of the turn and the header
        inputs = adapter.prepare(picture, question)
        expected = adapter.replay(inputs, ids[rows[1:]][None], torch.arange(16))[0]
        assert torch.allclose(logits[row, 1:], expected, atol=2e-4)


def test_codes_that_share_bits_start_with_similar_embeddings(stage):
    student = stage[0].student
    rows = student.embedding.weight[student.adapter().config.image_token_offset :].detach()
    one_bit = (rows[0] - rows[1]).norm()
    all_bits = (rows[0] - rows[-1]).norm()
    assert 0 < one_bit < 0.6 * all_bits


def test_the_image_tokenizer_learns_nothing_in_the_second_stage(stage):
    trained = {name for name, value in stage[0].student.named_parameters() if value.requires_grad}
    assert trained == {f"network.{name}" for name, _ in stage[0].student.network.named_parameters()}


@pytest.mark.slow
def test_the_recipe_leaves_a_folder_that_the_adapter_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    folder = train_mmada(out=tmp_path, dataset=Scenes, recipe=miniature_mmada())
    adapter = MMaDAAdapter.load(folder, Placement(dtype=torch.float32))
    inputs = adapter.prepare(Scenes("test", 1)[0].image, "describe the picture")
    assert inputs.image_span == (2, 146)
    assert len(adapter.denoise(inputs, adapter.default_sampler).answer_ids) <= 16
    values = json.loads((folder / "config.json").read_text())
    assert values["vocab_size"] == values["image_token_offset"] + 64 == adapter.model.config.language.rows
    # The tokenizer that is shipped is the one whose codes were learnt.
    learnt, shipped = load_file(tmp_path / "magvit.safetensors"), adapter.vq.state_dict()
    assert all(torch.equal(value.to(shipped[name].dtype), shipped[name]) for name, value in learnt.items())
