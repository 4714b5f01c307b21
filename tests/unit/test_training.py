"""The recipe of the embedded models: what it feeds, what may see what, and that it learns and resumes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcam_adapters.common.llama_block import plain_attention
from dcam_adapters.common.siglip import SiglipTower
from dcam_adapters.embedded.training import scenes as scene_arrays
from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.evaluation import accuracy, named_objects
from dcam_adapters.embedded.training.initialisation import initialise_tower
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.recipe import Recipe, miniature, train_llada_v
from dcam_adapters.embedded.training.segments import (
    PACKED,
    PackedBatch,
    PackedBatches,
    PromptIds,
    attention_mask,
    position_ids,
)
from dcam_adapters.embedded.training.tower import PatchBatches, TowerStage
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.modeling import LLaDAV
from dcam_adapters.llada_v.prompt import IMAGE, chat
from dcam_plugins.scenes import Scenes

OBJECTS = [("circle", "red"), ("star", "blue"), ("circle", "orange")]
STEPS = 40


@pytest.fixture(scope="module")
def conversations():
    return Conversations(Scenes.shapes, Scenes.colours)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(Scenes.shapes, Scenes.colours)


@pytest.fixture(scope="module")
def rendered():
    """Twelve scenes as arrays, drawn in this process: workers would take longer to start than to draw."""
    labelled = scene_arrays._Labelled(Scenes, "train", 12, 96, 8)
    drawn = [labelled[index] for index in range(12)]
    return scene_arrays.SceneArrays(*(np.stack(part) for part in zip(*drawn, strict=True)))


@pytest.fixture(scope="module")
def batches(rendered, conversations, tokenizer):
    return PackedBatches(rendered, conversations, PromptIds(tokenizer, 16), size=3, steps=STEPS, seed=5)


def first(batches: PackedBatches, segments: int) -> PackedBatch:
    """The first batch with that many segments per picture."""
    return next(batch for batch in map(batches.batch, range(STEPS)) if batch.ids.shape[1] == segments)


# -- what is said ------------------------------------------------------------------------------------


def test_every_prompt_and_answer_is_in_the_vocabulary(conversations, tokenizer):
    random = np.random.default_rng(0)
    for scene in Scenes("validation", 30):
        objects = [(thing.shape, thing.colour) for thing in scene.objects]
        said = [
            conversations.describe(objects, random),
            *(conversations.question(objects, random) for _ in range(9)),
        ]
        for text in (part for pair in said for part in pair):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_the_description_is_the_scene_s_caption(conversations):
    for scene in Scenes("validation", 10):
        objects = [(thing.shape, thing.colour) for thing in scene.objects]
        assert conversations.describe(objects, np.random.default_rng(0))[1] == scene.caption


def test_questions_have_true_answers(conversations):
    random = np.random.default_rng(0)
    said = {conversations.is_there(OBJECTS, random) for _ in range(200)}
    for prompt, answer in said:
        assert (prompt.split()[3] in {"circle", "star"}) == (answer == "yes")
    assert {answer for _, answer in said} == {"yes", "no"}
    assert conversations.how_many(OBJECTS, random)[1] == "three"
    # Two circles: only the star's colour can be asked for.
    assert {conversations.what_colour(OBJECTS, random) for _ in range(20)} == {
        ("what colour is the star ?", "blue")
    }
    assert conversations.what_colour([OBJECTS[0], OBJECTS[2]], random) is None


def test_the_tokenizer_reads_any_text_and_keeps_special_tokens_whole(tokenizer):
    text = chat(tokenizer, "Describe the zebra!")
    before, after = text.split(IMAGE)
    assert tokenizer.convert_ids_to_tokens(tokenizer(before, add_special_tokens=False)["input_ids"]) == [
        "<|startoftext|>",
        "<|start_header_id|>",
        "user",
        "<|end_header_id|>",
    ]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(after, add_special_tokens=False)["input_ids"])
    assert tokens[:4] == ["describe", "the", "<unk>", "<unk>"]
    assert tokens[4:] == ["<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>"]


# -- rendered scenes ---------------------------------------------------------------------------------


def test_patch_labels_name_the_object_and_point_at_its_centre(rendered):
    _, patches, objects = rendered.batch(np.arange(12), mirrored=False)
    for index, scene in enumerate(Scenes("train", 12)):
        words = [
            (Scenes.shapes.index(o.shape) + 1, Scenes.colours.index(o.colour) + 1) for o in scene.objects
        ]
        assert [tuple(pair) for pair in objects[index].tolist() if pair[0]] == words
        for word, thing in zip(words, scene.objects, strict=True):
            row, column = np.argwhere((patches[index, ..., :2].numpy() == word).all(-1)).T
            x0, y0, x1, y1 = thing.box
            pointed = np.stack([column * 8 + 4, row * 8 + 4]) + patches[index, row, column, 2:].numpy().T
            assert np.abs(pointed - np.array([[(x0 + x1) / 2], [(y0 + y1) / 2]])).max() <= 0.5


def test_mirrored_scenes_are_mirrored_in_every_respect(rendered):
    plain, mirrored = (rendered.batch(np.arange(12), mirrored=flag) for flag in (False, True))
    assert torch.equal(plain[0].flip(3), mirrored[0])
    assert torch.equal(plain[1][..., :2].flip(2), mirrored[1][..., :2])
    assert torch.equal(-plain[1][..., 2].flip(2), mirrored[1][..., 2])
    for one, other in zip(plain[2].tolist(), mirrored[2].tolist(), strict=True):
        assert [pair for pair in one if pair[0]][::-1] == [pair for pair in other if pair[0]]
        assert other == sorted(other, key=lambda pair: pair[0] == 0)


# -- packed batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 7])
def test_a_resumed_training_draws_what_it_would_have_drawn(rendered, batches, start):
    resumed = PackedBatches(
        rendered, batches.conversations, batches.prompts, size=3, steps=STEPS, seed=5, start=start
    )
    for number, batch in zip(range(start, start + 4), resumed, strict=False):
        for name, value in batch._asdict().items():
            expected = getattr(batches.batch(number), name)
            assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected
    patches = [iter(PatchBatches(rendered, 2, 5, begin)) for begin in (0, start)]
    for _ in range(start):
        next(patches[0])
    assert all(torch.equal(one, other) for one, other in zip(*map(next, patches), strict=True))


def test_the_two_captions_of_a_packed_picture_hide_complementary_tokens(batches):
    batch = first(batches, PACKED)
    hidden = batch.weights[:, :2] > 0
    assert torch.equal(hidden[:, 0], ~hidden[:, 1])
    assert torch.equal(batch.targets[:, 0], batch.targets[:, 1])


@pytest.mark.parametrize("segments", [1, PACKED])
def test_hidden_tokens_are_masked_and_all_others_are_given(batches, segments):
    batch = first(batches, segments)
    for ids, answer, target, weight in zip(
        batch.ids.flatten(0, 1),
        batch.answers.flatten(),
        batch.targets.flatten(0, 1),
        batch.weights.flatten(0, 1),
        strict=True,
    ):
        seen = ids[answer : answer + len(target)]
        assert torch.equal(seen, target.where(weight == 0, batches.prompts.mask))
        assert target[-1] == batches.prompts.stop


@pytest.mark.parametrize("segments", [1, PACKED])
def test_the_text_behind_the_picture_is_what_the_adapter_reads(batches, tokenizer, segments):
    batch = first(batches, segments)
    for ids, answer in zip(batch.ids.flatten(0, 1), batch.answers.flatten(), strict=True):
        text = tokenizer.decode(ids[:answer])
        prompt = text.split(" <|eot_id|>")[0].removesuffix("<|eot_id|>")
        expected = tokenizer(chat(tokenizer, prompt).split(IMAGE)[1], add_special_tokens=False)["input_ids"]
        assert ids[:answer].tolist() == expected


def test_packed_segments_read_the_picture_and_themselves():
    prefix, length = 3, 4
    mask = attention_mask(prefix, torch.tensor([[4, 2]]), length)[0, 0]
    for row in range(prefix + 2 * length):
        for column in range(prefix + 2 * length):
            in_picture = column < prefix
            segment = (column - prefix) // length
            padding = segment == 1 and (column - prefix) % length >= 2
            own = row >= prefix and (row - prefix) // length == segment
            assert mask[row, column] == (in_picture or (own and not padding))


def test_one_segment_alone_is_read_by_everything_but_its_padding():
    mask = attention_mask(3, torch.tensor([[2], [4]]), 4).expand(-1, -1, 7, -1)
    assert mask[0, 0].tolist() == [[True] * 5 + [False] * 2] * 7
    assert mask[1].all()


def test_every_segment_has_the_positions_it_would_have_alone():
    prefix = torch.tensor([0, 1, 5])
    assert position_ids(prefix, 9, 2, 3).tolist() == [0, 1, 5, 9, 10, 11, 9, 10, 11]


# -- the network -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(conversations, tokenizer):
    """A language stage of untrained, tiny size."""
    recipe = miniature()
    config = LLaDAVConfig.from_dict(recipe.config(tokenizer))
    torch.manual_seed(0)
    tower = LLaDAV(config, attention=plain_attention, vision_attention="eager").model.vision_tower
    initialise_tower(tower, config.vision)
    prompts = PromptIds(tokenizer, recipe.answer_length)
    scenes = Scenes("validation", 2)
    built = LanguageStage(
        config,
        tower.state_dict(),
        torch.randn(2, 3, 96, 96),
        tokenizer,
        prompts.before,
        conversations,
        scenes,
        recipe.generation,
        recipe.language,
    )
    # Initial attention is so flat that a wrong mask would hardly show.
    with torch.no_grad():
        for parameter in built.model.model.layers.parameters():
            parameter.mul_(4)
    return built.eval()


@torch.no_grad()
def test_training_computes_what_the_adapter_computes(stage, rendered, batches, tokenizer):
    """The packed sequence against the shipped way: picture by picture, prompt by prompt."""
    adapter = LLaDAVAdapter(stage.model, stage.config, tokenizer)
    late = [number for number in range(STEPS) if batches.batch(number).views == ("base", "grid")]
    batch = next(b for b in map(batches.batch, late) if b.ids.shape[1] == 1)
    logits = {}
    stage.run = lambda *arguments: logits.setdefault("found", stage.answer_logits(*arguments))
    try:
        stage.log = lambda *a, **k: None
        stage.training_step(batch, 0)
    finally:
        stage.run = stage.answer_logits
        del stage.log
    for row in range(len(batch.pixels)):
        pixels = ((batch.pixels[row].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        start = int(batch.answers[row, 0])
        prompt = tokenizer.decode(batch.ids[row, 0, : start - 4])
        inputs = adapter.prepare(Image.fromarray(pixels), prompt)
        state = batch.ids[row, 0, start : start + 16][None]
        expected = adapter.replay(inputs, state, torch.arange(16))[0]
        assert torch.allclose(logits["found"][row], expected, atol=2e-4)


@torch.no_grad()
def test_packed_segments_do_not_disturb_one_another(stage, batches):
    batch = first(batches, PACKED)
    seen = {}
    stage.log = lambda *a, **k: None
    try:
        for name, ids in (("plain", batch.ids), ("changed", batch.ids.clone())):
            if name == "changed":
                ids[:, 2] = 9
            stage.run = lambda *arguments, name=name: seen.setdefault(name, stage.answer_logits(*arguments))
            stage.training_step(batch._replace(ids=ids), 0)
    finally:
        stage.run = stage.answer_logits
        del stage.log
    plain, changed = (seen[name].unflatten(1, (PACKED, 16)) for name in ("plain", "changed"))
    others = [0, 1, 3]
    assert torch.allclose(plain[:, others], changed[:, others], atol=1e-5)
    assert not torch.allclose(plain[:, 2], changed[:, 2], atol=1e-2)


def test_the_tower_learns_nothing_in_the_second_stage(stage):
    trained = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    assert not any("vision_tower" in name for name in trained)
    assert any("mm_projector" in name for name in trained)
    assert any("image_newline" in name for name in trained)


@torch.no_grad()
def test_the_tower_starts_with_attention_to_what_is_like_it():
    config = LLaDAVConfig.from_dict(Recipe().config(build_tokenizer(Scenes.shapes, Scenes.colours))).vision
    torch.manual_seed(0)
    tower = SiglipTower(config)
    initialise_tower(tower, config)
    attention = tower.vision_tower.vision_model.encoder.layers[0].self_attn
    value_output = attention.out_proj.weight @ attention.v_proj.weight
    assert value_output.diagonal().mean() == pytest.approx(-0.4, abs=0.1)
    head = attention.q_proj.weight[:32].T @ attention.k_proj.weight[:32]
    assert head.diagonal().mean() > 5 * head.mean().abs()


def test_the_learning_rate_warms_up_and_falls_to_its_floor():
    schedule = Schedule(steps=100, batch=1, warmup=10, floor=0.02)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1, rel=1e-2)
    assert max(factors) == factors[int(np.argmax(factors))] <= 1
    assert 8 <= int(np.argmax(factors)) <= 10
    assert factors[100] == pytest.approx(0.02)


# -- what is measured --------------------------------------------------------------------------------


def test_accuracy_counts_objects_at_their_place(monkeypatch, conversations):
    said = {"describe the picture": "a red circle and an orange ring"}
    monkeypatch.setattr(
        "dcam_adapters.embedded.training.evaluation.answer",
        lambda adapter, picture, prompt: said.get(prompt, "nothing"),
    )
    scene = next(scene for scene in Scenes("train", 50) if len(scene.objects) == 2)
    things = [
        replace(thing, colour=c, shape=s)
        for thing, (c, s) in zip(scene.objects, [("red", "circle"), ("orange", "fish")], strict=True)
    ]
    found = accuracy(None, [replace(scene, objects=tuple(things))], conversations)
    assert found == {
        "describe": 0,
        "describe_otherwise": 0,
        "objects": 0.5,
        "what_colour": 0,
        "is_there": 0,
        "how_many": 0,
    }
    assert named_objects("a red circle , an orange ring and a") == [("red", "circle"), ("orange", "ring")]


# -- the whole recipe --------------------------------------------------------------------------------


class InterruptedTrainingError(Exception):
    """Stands for whatever ends a training early."""


@pytest.mark.slow
def test_the_recipe_learns_exports_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch, tokenizer):
    recipe = miniature()
    # Compiling takes longer than these trainings, and has nothing to do with what is tested.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    losses = {TowerStage: [], LanguageStage: []}
    stop_at = {"step": None}

    def watched(kind, original):
        def training_step(self, batch, index):
            if kind is LanguageStage and self.global_step == stop_at["step"]:
                raise InterruptedTrainingError
            loss = original(self, batch, index)
            losses[kind].append((self.global_step, loss.item()))
            return loss

        return training_step

    for kind in losses:
        monkeypatch.setattr(kind, "training_step", watched(kind, kind.training_step))

    folder = train_llada_v(out=tmp_path / "whole", dataset=Scenes, recipe=recipe)
    whole = losses[LanguageStage].copy()
    assert [step for step, _ in whole] == list(range(20))
    for history in losses.values():
        assert np.mean([loss for _, loss in history[-5:]]) < 0.9 * np.mean([loss for _, loss in history[:3]])

    adapter = LLaDAVAdapter.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    inputs = adapter.prepare(Image.fromarray(Scenes("test", 1)[0].image), "describe the picture")
    assert inputs.image_span == (4, 4 + 144 + 12 * 13)
    assert len(adapter.denoise(inputs, adapter.default_sampler).answer_ids) <= 16
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tokenizer)

    # The same training, stopped between two checkpoints of the second stage and called again.
    losses[LanguageStage].clear()
    (tmp_path / "halves").mkdir()
    shutil.copytree(tmp_path / "whole/scenes", tmp_path / "halves/scenes")
    shutil.copy(tmp_path / "whole/tower.safetensors", tmp_path / "halves")
    stop_at["step"] = 15
    with pytest.raises(InterruptedTrainingError):
        train_llada_v(out=tmp_path / "halves", dataset=Scenes, recipe=recipe)
    assert not (tmp_path / "halves/tiny-llada-v").exists()
    stop_at["step"] = None
    losses[LanguageStage].clear()
    again = train_llada_v(out=tmp_path / "halves", dataset=Scenes, recipe=recipe)
    assert [step for step, _ in losses[LanguageStage]] == list(range(10, 20))
    assert losses[LanguageStage] == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in whole[10:]]
    weights = [load_file(each / "model.safetensors") for each in (folder, again)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=2e-3) for name in weights[0])

    # And a training that is complete is not trained further.
    losses[LanguageStage].clear()
    train_llada_v(out=tmp_path / "halves", dataset=Scenes, recipe=recipe)
    assert losses[LanguageStage] == []
    assert (again / "model.safetensors").is_file()
    complete = load_file(again / "model.safetensors")
    assert all(torch.equal(complete[name], weights[1][name]) for name in complete)
