"""The shipped models: they load as any checkpoint does, say what is there, and replay exactly."""

from __future__ import annotations

import pytest
import torch
from benchmarks.map_quality import measure_methods
from benchmarks.scenes_answers import answers
from safetensors import safe_open

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.evaluation import accuracy
from dcam_core import Explainer, load_model
from dcam_core.denoising import decision_logits, denoise
from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_core.faithfulness import other_labels, spearman
from dcam_plugins.scenes import Scenes

# What tells a family's published layout, and the share of objects that its model card promises.
LAYOUTS = {
    "tiny-llada-v": ("model.embed_tokens.weight", "model.image_newline", "model.mm_projector.0.weight"),
    "tiny-lavida": ("model.transformer.wte.weight", "model.image_newline", "model.mm_projector.0.weight"),
    "tiny-mmada": ("model.transformer.wte.weight", "model.transformer.ff_out.weight"),
}
# Shares of objects named rightly that 24 scenes must reach: those of the model cards, less what chance leaves open.
NAMED = {"tiny-llada-v": 0.9, "tiny-lavida": 0.93, "tiny-mmada": 0.85}
CONVERSATIONS = Conversations(Scenes.shapes, Scenes.colours)


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def model(request):
    return load_model(request.param)


def test_it_is_small_and_in_the_published_layout(model):
    assert sum(file.stat().st_size for file in model.folder.rglob("*.safetensors")) < 13e6
    with safe_open(model.folder / "model.safetensors", framework="pt") as weights:
        assert set(LAYOUTS[model.name]) <= set(weights.keys())
    if model.name == "tiny-mmada":
        assert (model.folder / "vq" / "model.safetensors").is_file()


def test_its_answers_are_right(model):
    """A sample of what the model card reports on 500 scenes."""
    found = accuracy(model, Scenes("test", 24), CONVERSATIONS)
    assert found["objects"] >= NAMED[model.name]
    assert min(found["is_there"], found["what_colour"]) >= 0.85


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_length": 4, "steps": 8},
        {"guidance_scale": 0.5},
        {"temperature": 0.7},
        {"cache": "prefix"},
        {"cache": "prefix", "guidance_scale": 0.5, "schedule": "shift", "step_ratio": 0.5},
    ],
)
def test_every_committed_token_replays_exactly(model, changes):
    if changes.get("cache") not in (None, *model.caches):
        pytest.skip(f"{model.name} has no prefix cache")
    settings = model.default_sampler.merged(changes)
    # Guidance adds two passes up, (1 + scale) of one and scale of the other, and their rounding with them.
    tolerance = 1e-5 * (1 + 2 * settings.guidance_scale)
    decided = 0
    for scene in Scenes("test", 3):
        with torch.no_grad():
            inputs = model.prepare(scene.image, "describe the picture")
            run = denoise(model, inputs, settings)
            for position in (run.commit_steps != NEVER_COMMITTED).nonzero()[:, 0].tolist():
                state = run.states[run.commit_steps[position]]
                logits = decision_logits(model, inputs, state[None], torch.tensor([position]), settings)
                found = logits[0, 0, run.final[position]]
                torch.testing.assert_close(found, run.commit_logits[position], atol=tolerance, rtol=0)
                decided += 1
    assert decided > 15


def test_maps_lie_on_the_objects(model):
    """Far above a map that knows nothing; the figures are in the model card."""
    rows = {row["method"]: row for row in measure_methods(model, "test", 12, [("ours", "diffusion-cam", ())])}
    assert rows["ours"]["maps"] >= 20
    assert rows["ours"]["energy"] > 3 * rows["random"]["energy"]
    assert rows["ours"]["point_half_cell"] > max(0.5, 2 * rows["random"]["point_half_cell"])


def test_maps_by_relevance_lie_on_the_objects_and_follow_the_word(model):
    """What docs/results.md reports on more than 1000 words, on a few."""
    relevance = {"dcam": [], "dcam-relevance": []}
    for case in answers(model, "test", 8):
        targets = [named.target for named in case.named]
        if len({target.word for target in targets}) < 2:
            continue
        for method, likeness in relevance.items():
            explainer = Explainer(model, method)
            own, others = (
                explainer.probe_run(case.inputs, case.trajectory, words, pictures=[case.picture]).raw[0]
                for words in (targets, other_labels(targets, 0))
            )
            likeness.append(spearman(own, others).abs().mean())
    assert len(relevance["dcam"]) >= 5
    assert sum(relevance["dcam-relevance"]) < 0.9 * sum(relevance["dcam"])
    rows = {row["method"]: row for row in measure_methods(model, "test", 8, [("ours", "dcam-relevance", ())])}
    assert rows["ours"]["iou"] > 0.7
    assert rows["ours"]["point_half_cell"] > 0.9
