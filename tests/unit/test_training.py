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

from dcam_adapters.common.prompt import IMAGE, chat
from dcam_adapters.common.siglip import SiglipTower
from dcam_adapters.common.transformer import plain_attention
from dcam_adapters.embedded.training import configs
from dcam_adapters.embedded.training import scenes as scene_arrays
from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.curriculum import CURRICULUM, phase_at
from dcam_adapters.embedded.training.evaluation import accuracy, named_objects
from dcam_adapters.embedded.training.initialisation import initialise_tower, resampled_tower
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.prompts import Frame, PromptIds
from dcam_adapters.embedded.training.recipe import Recipe, miniature, train_lavida, train_llada_v
from dcam_adapters.embedded.training.segments import (
    EARLY_TIME,
    PackedBatch,
    PackedBatches,
    attention_mask,
    segment_positions,
)
from dcam_adapters.embedded.training.students import LlavaStudent, half_attention
from dcam_adapters.embedded.training.tower import PatchBatches, TowerStage
from dcam_adapters.lavida.adapter import LaViDaAdapter
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_core.placement import Placement
from dcam_plugins.scenes import Scenes

OBJECTS = [("circle", "red"), ("star", "blue"), ("circle", "orange")]
STEPS = 60
DRAWN = {"views": 2, "size": 3, "curriculum": CURRICULUM, "steps": STEPS, "seed": 5}
BEFORE, BEHIND = "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n", "\n"
AFTER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
FAMILIES = {"llada-v": (LLaDAVAdapter, configs.llada_v, 8), "lavida": (LaViDaAdapter, configs.lavida, 6)}


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
def prompts(tokenizer):
    return PromptIds(tokenizer, Frame(BEFORE, BEHIND, AFTER), 16, [*Scenes.shapes, *Scenes.colours])


@pytest.fixture(scope="module")
def batches(rendered, conversations, prompts):
    return PackedBatches(rendered, conversations, prompts, **DRAWN)


def first(batches: PackedBatches, *, packed: bool, views: tuple[int, ...] | None = None) -> PackedBatch:
    """The first batch of that kind."""
    kinds = map(batches.batch, range(STEPS))
    return next(each for each in kinds if each.packed == packed and views in (None, each.views))


def each_segment(batch: PackedBatch):
    """Every segment of a batch as (ids, length, rows, targets, weights)."""
    for group in batch.groups:
        yield from zip(*(part.flatten(0, 1) for part in group), strict=True)


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
    asked = {conversations.what_object(OBJECTS, random) for _ in range(30)}
    assert asked == {(f"what object is {colour} ?", shape) for shape, colour in OBJECTS}
    assert conversations.what_object([("star", "red"), ("ring", "red")], random) is None


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
    resumed = PackedBatches(rendered, batches.conversations, batches.prompts, **DRAWN, start=start)
    for number, batch in zip(range(start, start + 4), resumed, strict=False):
        expected = batches.batch(number)
        assert torch.equal(batch.pixels, expected.pixels)
        assert (batch.packed, batch.views) == (expected.packed, expected.views)
        for found, wanted in zip(batch.groups, expected.groups, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    patches = [iter(PatchBatches(rendered, 2, 5, begin)) for begin in (0, start)]
    for _ in range(start):
        next(patches[0])
    assert all(torch.equal(one, other) for one, other in zip(*map(next, patches), strict=True))


def test_the_first_two_captions_of_a_packed_picture_hide_complementary_tokens(batches):
    captions = first(batches, packed=True).groups[0]
    assert captions.ids.shape[1] == CURRICULUM[0].captions == 2
    hidden = captions.weights[:, :, 1:] > 0
    assert torch.equal(hidden[:, 0], ~hidden[:, 1])
    assert torch.equal(captions.targets[:, 0], captions.targets[:, 1])


def test_further_captions_are_hidden_as_early_in_the_denoising(batches):
    hidden = torch.cat(
        [
            batch.groups[0].weights[:, 2:, 1:] > 0
            for batch in map(batches.batch, range(STEPS // 2, STEPS))
            if batch.packed
        ]
    )
    assert hidden.shape[1] == CURRICULUM[-1].captions - 2 > 0
    assert abs(hidden.double().mean() - (1 + EARLY_TIME) / 2) < 0.05


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.999])
def test_the_phases_of_the_training_follow_each_other(share):
    phase = phase_at(CURRICULUM, share)
    assert share < phase.until
    assert all(share >= before.until for before in CURRICULUM[: CURRICULUM.index(phase)])
    assert CURRICULUM[-1].until == 1


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_tokens_are_masked_and_all_others_are_given(batches, packed):
    for ids, _, rows, targets, weights in each_segment(first(batches, packed=packed)):
        assert torch.equal(ids[rows[1:]], targets[1:].where(weights[1:] == 0, batches.prompts.mask))
        assert targets[-1] == batches.prompts.stop


def test_the_row_of_the_word_that_is_asked_about_predicts_the_answer(batches, tokenizer):
    seen, named = set(), {*Scenes.shapes, *Scenes.colours}
    for number in range(STEPS):
        for ids, _, rows, targets, weights in each_segment(batches.batch(number)):
            words = tokenizer.convert_ids_to_tokens(ids[: rows[1] - 4])
            asks = weights[0] > 0
            if asks:
                seen.add(" ".join(words[:3]))
                assert words[rows[0]] in named
                assert ids[rows[1]] == batches.prompts.mask
            # Nothing is asked for where the answer can be read, or where nothing is named.
            assert asks == (bool(set(words) & named) and bool(ids[rows[1]] == batches.prompts.mask))
            assert targets[0] == targets[1]
    assert seen == {"what colour is", "what object is", "is there a"}


@pytest.mark.parametrize("packed", [False, True])
def test_the_text_behind_the_picture_is_what_the_adapter_reads(batches, tokenizer, packed):
    for ids, length, rows, _, _ in each_segment(first(batches, packed=packed)):
        text = tokenizer.decode(ids[: rows[1]])
        prompt = text.split(" <|eot_id|>")[0].removesuffix("<|eot_id|>")
        expected = tokenizer(chat(tokenizer, prompt).split(IMAGE)[1], add_special_tokens=False)["input_ids"]
        assert ids[: rows[1]].tolist() == expected
        assert rows[-1] == length - 1


def test_questions_and_answers_that_do_not_fit_are_refused(prompts):
    with pytest.raises(ValueError, match="at most 6"):
        prompts.question("what colour is the very big star ?")
    with pytest.raises(ValueError, match="region only 2"):
        prompts.answer("a red", 2)


def test_packed_segments_read_the_picture_and_themselves():
    prefix, length = 3, 4
    mask = attention_mask(prefix, torch.tensor([[4, 2]]), length)[0, 0]
    assert mask.shape == (2 * length, prefix + 2 * length)
    for row in range(2 * length):
        for column in range(prefix + 2 * length):
            segment, place = divmod(column - prefix, length)
            padding = segment == 1 and place >= 2
            assert mask[row, column] == (column < prefix or (row // length == segment and not padding))


def test_one_segment_alone_is_read_by_everything_but_its_padding():
    mask = attention_mask(3, torch.tensor([[2], [4]]), 4).expand(-1, -1, 7, -1)
    assert mask[0, 0].tolist() == [[True] * 5 + [False] * 2] * 7
    assert mask[1].all()


def test_every_segment_has_the_positions_it_would_have_alone():
    assert segment_positions(9, 2, 3).tolist() == [9, 10, 11, 9, 10, 11]


def test_half_attention_is_attention():
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5) > 0.3
    mask[..., 0] = True
    expected = plain_attention(queries, keys, values, mask)
    assert torch.allclose(half_attention(queries, keys, values, mask), expected, atol=1e-6)


# -- the network -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def stage(request, conversations, tokenizer):
    """A language stage of untrained, tiny size."""
    recipe = miniature()
    adapter, values, _ = FAMILIES[request.param]
    content = values(recipe, tokenizer)
    vision = adapter.config_type.of(content).vision
    torch.manual_seed(0)
    tower = SiglipTower(vision)
    initialise_tower(tower, vision)
    student = LlavaStudent(adapter, content, tokenizer, recipe.generation, tower.state_dict())
    student.initialise(torch.randn(2, 3, 96, 96))
    prompts = PromptIds(tokenizer, student.frame, recipe.answer_length, [*Scenes.shapes, *Scenes.colours])
    built = LanguageStage(student, prompts, conversations, Scenes("validation", 2), recipe.language)
    # Initial attention is so flat that a wrong mask would hardly show.
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            if parameter.requires_grad:
                parameter.mul_(4)
    return built.eval()


@torch.no_grad()
def test_training_computes_what_the_adapter_computes(stage, batches, tokenizer):
    """A batch against the shipped way: picture by picture, prompt by prompt."""
    adapter = stage.student.adapter()
    batch = first(batches, packed=False, views=(0, 1))
    (logits,) = stage.logits(batch)
    for row, pixels in enumerate(batch.pixels):
        ids, _, rows, _, _ = (part[row, 0] for part in batch.groups[0])
        inputs = adapter.prepare(_picture(pixels), tokenizer.decode(ids[: rows[1] - 4]))
        expected = adapter.replay(inputs, ids[rows[1:]][None], torch.arange(16))[0]
        assert torch.allclose(logits[row, 1:], expected, atol=2e-4)


@torch.no_grad()
def test_packed_segments_are_what_reads_a_cached_picture(stage, batches, tokenizer):
    """The same under prefix caching, the text behind the picture in the answer's place."""
    adapter = stage.student.adapter()
    batch = first(batches, packed=True, views=(0, 1))
    found = [
        logits.unflatten(1, group.rows.shape[1:])
        for logits, group in zip(stage.logits(batch), batch.groups, strict=True)
    ]
    for row, pixels in enumerate(batch.pixels):
        for group, logits in zip(batch.groups, found, strict=True):
            ids, length, rows, _, _ = (part[row, -1] for part in group)
            inputs = adapter.prepare(_picture(pixels), tokenizer.decode(ids[: rows[1] - 4]))
            picture = inputs.embeddings[:, : inputs.prompt_length - int(rows[1])]
            _, prefix = stage.student.backbone.encode(picture)
            text = stage.student.embedding(ids[None, :length])
            expected = stage.student.head(stage.student.backbone(text, prefix=prefix))[0, rows]
            assert torch.allclose(logits[row, -1], expected, atol=2e-4)


@torch.no_grad()
def test_one_view_alone_stands_where_it_stands_beside_the_other(stage, batches):
    pixels = batches.batch(0).pixels
    both, places, whole = stage.student.picture(pixels, (0, 1))
    parts = [stage.student.picture(pixels, (view,)) for view in (0, 1)]
    assert torch.equal(torch.cat([part[0] for part in parts], dim=1), both)
    assert torch.equal(torch.cat([part[1] for part in parts]), places)
    assert places.tolist() == list(range(whole))


@torch.no_grad()
def test_packed_segments_do_not_disturb_one_another(stage, batches):
    batch = first(batches, packed=True)
    captions, questions = batch.groups
    changed = questions.ids.clone()
    changed[:, 2] = 9
    plain, other = (
        stage.logits(batch._replace(groups=(captions, questions._replace(ids=ids))))[1].unflatten(
            1, (questions.ids.shape[1], -1)
        )
        for ids in (questions.ids, changed)
    )
    others = [place for place in range(questions.ids.shape[1]) if place != 2]
    assert torch.allclose(plain[:, others], other[:, others], atol=1e-5)
    assert not torch.allclose(plain[:, 2], other[:, 2], atol=1e-2)


def test_the_tower_learns_nothing_in_the_second_stage(stage):
    trained = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    assert not any("vision_tower" in name for name in trained)
    assert any("mm_projector" in name for name in trained)
    assert any("image_newline" in name for name in trained)


def _picture(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(((pixels.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())


@torch.no_grad()
def test_the_tower_starts_with_attention_to_what_is_like_it():
    config = LLaDAVConfig.from_dict(
        configs.llada_v(Recipe(), build_tokenizer(Scenes.shapes, Scenes.colours))
    ).vision
    torch.manual_seed(0)
    tower = SiglipTower(config)
    initialise_tower(tower, config)
    attention = tower.vision_tower.vision_model.encoder.layers[0].self_attn
    value_output = attention.out_proj.weight @ attention.v_proj.weight
    assert value_output.diagonal().mean() == pytest.approx(-0.4, abs=0.1)
    head = attention.q_proj.weight[:32].T @ attention.k_proj.weight[:32]
    assert head.diagonal().mean() > 5 * head.mean().abs()


@torch.no_grad()
def test_a_resampled_tower_sees_nearly_the_same():
    config = LLaDAVConfig.from_dict(configs.llada_v(Recipe(), build_tokenizer(Scenes.shapes, Scenes.colours)))
    torch.manual_seed(0)
    tower = SiglipTower(config.vision)
    initialise_tower(tower, config.vision)
    assert all(
        torch.allclose(value, tower.state_dict()[name], atol=1e-6)
        for name, value in resampled_tower(tower.state_dict(), config.vision).items()
    )
    fine = replace(config.vision, patch_size=6)
    other = SiglipTower(fine)
    other.load_state_dict(resampled_tower(tower.state_dict(), fine))
    # Of a picture of one colour, patches differ by their positions only.
    embedded = [
        each.vision_tower.vision_model.embeddings(torch.full((1, 3, 96, 96), 0.5))[0].unflatten(
            0, (side, side)
        )
        for each, side in ((tower, 12), (other, 16))
    ]
    corners = [grid[[0, 0, -1, -1], [0, -1, 0, -1]] for grid in embedded]
    assert torch.allclose(*corners, atol=0.15)
    assert torch.nn.functional.cosine_similarity(*corners).min() > 0.98


def test_the_learning_rate_warms_up_and_falls_to_its_floor():
    schedule = Schedule(steps=100, batch=1, warmup=10, floor=0.02)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1, rel=1e-2)
    assert max(factors) == factors[int(np.argmax(factors))] <= 1
    assert 8 <= int(np.argmax(factors)) <= 10
    assert factors[100] == pytest.approx(0.02)


# -- what is measured --------------------------------------------------------------------------------


def test_accuracy_counts_objects_at_their_place_and_tells_yes_from_no(monkeypatch, conversations):
    def says(adapter, picture, prompt):
        if prompt == "describe the picture":
            return "a red circle and an orange ring"
        return "yes" if prompt.startswith("is there") else "nothing"

    monkeypatch.setattr("dcam_adapters.embedded.training.evaluation.answer", says)
    scene = next(scene for scene in Scenes("train", 50) if len(scene.objects) == 2)
    things = [
        replace(thing, colour=c, shape=s)
        for thing, (c, s) in zip(scene.objects, [("red", "circle"), ("orange", "fish")], strict=True)
    ]
    found = accuracy(None, [replace(scene, objects=tuple(things))] * 12, conversations)
    assert 0 < found.pop("is_there") < 1
    assert found == {
        "describe": 0,
        "describe_otherwise": 0,
        "objects": 0.5,
        "what_colour": 0,
        "what_object": 0,
        "is_there_present": 1,
        "is_there_absent": 0,
        "how_many": 0,
    }
    assert named_objects("a red circle , an orange ring and a") == [("red", "circle"), ("orange", "ring")]


# -- the whole recipe --------------------------------------------------------------------------------


class InterruptedTrainingError(Exception):
    """Stands for whatever ends a training early."""


@pytest.mark.slow
def test_lavida_s_recipe_refines_the_tower_and_exports(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    folder = train_lavida(out=tmp_path, dataset=Scenes, recipe=miniature())
    adapter = LaViDaAdapter.load(folder, Placement(dtype=torch.float32))
    inputs = adapter.prepare(Scenes("test", 1)[0].image, "describe the picture")
    assert inputs.image_span == (4, 4 + 64 + 8 * 9)
    assert len(adapter.denoise(inputs, adapter.default_sampler).answer_ids) <= 16
    assert json.loads((folder / "config.json").read_text())["vision_config"]["patch_size"] == 6
    refined, usual = (load_file(tmp_path / f"{name}.safetensors") for name in ("refined_tower", "tower"))
    kernel = "vision_tower.vision_model.embeddings.patch_embedding.weight"
    assert (refined[kernel].shape[-1], usual[kernel].shape[-1]) == (6, 8)


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

    adapter = LLaDAVAdapter.load(folder, Placement(dtype=torch.float32))
    inputs = adapter.prepare(Scenes("test", 1)[0].image, "describe the picture")
    assert inputs.image_span == (4, 4 + 144 + 12 * 13)
    assert len(adapter.denoise(inputs, adapter.default_sampler).answer_ids) <= 16
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tokenizer)

    # The same training, stopped between two checkpoints of the second stage and called again.
    losses[LanguageStage].clear()
    (tmp_path / "halves").mkdir()
    shutil.copytree(tmp_path / "whole/scenes-8", tmp_path / "halves/scenes-8")
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
