"""The shipped model: it loads as any checkpoint does, says what is there, and replays exactly."""

from __future__ import annotations

import pytest
import torch
from benchmarks.map_quality import measure_methods
from PIL import Image

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.evaluation import accuracy
from dcam_core import load_model
from dcam_core.denoising import decision_logits, denoise
from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_plugins.scenes import Scenes


@pytest.fixture(scope="module")
def model():
    return load_model("tiny-llada-v")


def test_it_is_small_and_in_the_published_layout(model):
    assert (model.folder / "model.safetensors").stat().st_size < 6e6
    names = set(model.model.state_dict())
    assert "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert {"lm_head.weight", "model.image_newline", "model.mm_projector.0.weight"} <= names


def test_named_objects_are_right(model):
    """A sample of what the model card reports on 500 scenes."""
    scenes = Scenes("test", 24)
    found = accuracy(model, scenes, Conversations(Scenes.shapes, Scenes.colours))
    assert found["objects"] >= 0.9


@pytest.mark.parametrize(
    "changes", [{}, {"block_length": 4, "steps": 8}, {"guidance_scale": 0.5}, {"temperature": 0.7}]
)
def test_every_committed_token_replays_exactly(model, changes):
    settings = model.default_sampler.merged(changes)
    # Guidance adds two passes up, (1 + scale) of one and scale of the other, and their rounding with them.
    tolerance = 1e-5 * (1 + 2 * settings.guidance_scale)
    decided = 0
    for scene in Scenes("test", 4):
        with torch.no_grad():
            inputs = model.prepare(Image.fromarray(scene.image), "describe the picture")
            run = denoise(model, inputs, settings)
            for position in (run.commit_steps != NEVER_COMMITTED).nonzero()[:, 0].tolist():
                state = run.states[run.commit_steps[position]]
                logits = decision_logits(model, inputs, state[None], torch.tensor([position]), settings)
                found = logits[0, 0, run.final[position]]
                torch.testing.assert_close(found, run.commit_logits[position], atol=tolerance, rtol=0)
                decided += 1
    assert decided > 20


def test_maps_lie_on_the_objects(model):
    """Far above a map that knows nothing; the figures are in the model card."""
    rows = {row["method"]: row for row in measure_methods(model, "test", 12, [("ours", "diffusion-cam", ())])}
    assert rows["ours"]["maps"] >= 20
    assert rows["ours"]["energy"] > 3 * rows["random"]["energy"]
    assert rows["ours"]["point_half_cell"] > max(0.5, 2 * rows["random"]["point_half_cell"])
