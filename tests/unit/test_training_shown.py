"""The training of the embedded models on Lightning: what it logs, what it shows, and that neither changes it."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from support.toy_training import LENGTH, ToyTraining, scene
from torch.utils.data import DataLoader, IterableDataset

from dcam_adapters.embedded.training import scenes as scene_arrays
from dcam_adapters.embedded.training import trainer
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.recipe import miniature, train_llada_v
from dcam_adapters.embedded.training.tower import TowerStage
from dcam_core.testing.toy import WORDS
from dcam_core.training import DiffusionCAM
from dcam_plugins.scenes import Scenes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's, of few workers and used folders

SHEET = "dcam/train/scene/contact-sheet"


class Answers(IterableDataset):
    """Endless batches of the toy's answers; batch number n is the same whatever came before it."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self):
        number = self.first
        while True:
            drawn = torch.Generator().manual_seed(number)
            yield torch.randint(3, 3 + len(WORDS), (4, LENGTH), generator=drawn)
            number += 1


def train(folder, steps: int, *callbacks) -> ToyTraining:
    """Train the toy up to a step, as a stage of a recipe is trained."""
    torch.manual_seed(1)
    stage, schedule = ToyTraining(), Schedule(steps=steps, batch=4, warmup=1)
    trainer.fit(stage, Answers, [], schedule, folder, validate_every=100, save_every=1, callbacks=callbacks)
    return stage


def watching() -> DiffusionCAM:
    return DiffusionCAM(
        [scene()],
        every_n_train_steps=1,
        probe_layer=0,
        words=["circle"],
        metrics=[],
        reliance=False,
        max_time_fraction=None,
        strict=True,
    )


def test_a_stage_logs_to_csv_and_tensorboard_and_goes_on_with_its_maps(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plain = train(tmp_path / "plain", 2)
    shown = train(tmp_path / "shown", 2, watching())
    assert shown.losses == plain.losses
    resumed = watching()
    train(tmp_path / "shown", 4, resumed)
    assert [moment["step"] for moment in resumed.history] == [0, 1, 2, 3, 4]
    # One curve in one folder, although it was written by two runs.
    events = accumulator.EventAccumulator(str(tmp_path / "shown/tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in events.Images(SHEET)] == [0, 1, 2, 3, 4]
    files = tmp_path.glob("shown/logs/*/dcam/train/scene/circle/*.png")
    assert sorted(path.name for path in files) == [f"step-{step:08d}.png" for step in range(5)]
    sheet = Image.open(tmp_path / f"shown/logs/version_1/{SHEET}.png")
    last = Image.open(io.BytesIO(events.Images(SHEET)[-1].encoded_image_string))
    assert sheet.size == last.size
    with (tmp_path / "shown/logs/version_0/metrics.csv").open() as lines:
        assert all(float(row["dcam/train/probability"]) > 0 for row in csv.DictReader(lines))


def test_tensorboard_is_optional_and_its_absence_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        train(tmp_path, 1)
    assert "TensorBoard is not installed (pip install tensorboard)" in caplog.text
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "logs/version_0").is_dir()


@pytest.mark.slow
def test_the_recipe_has_the_losses_that_it_had_before_anything_was_shown(tmp_path, monkeypatch):
    # Compiling takes longer than these trainings; so does starting processes that render a few scenes.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(
        scene_arrays, "DataLoader", lambda scenes, batch_size, num_workers: DataLoader(scenes, batch_size)
    )
    losses = {TowerStage: [], LanguageStage: []}

    def watched(kind, original):
        def training_step(self, batch, index):
            loss = original(self, batch, index)
            losses[kind].append(loss.item())
            return loss

        return training_step

    for kind in losses:
        monkeypatch.setattr(kind, "training_step", watched(kind, kind.training_step))
    recipe = replace(
        miniature(),
        scenes=24,
        validation_scenes=16,
        asked_scenes=1,
        tower=Schedule(steps=4, batch=8, warmup=2),
        language=Schedule(steps=6, batch=4, warmup=2),
        save_every=3,
        show_every=3,
    )
    train_llada_v(out=tmp_path, dataset=Scenes, recipe=recipe)
    # Written down from the code as it was without the callback and TensorBoard: to the last digit on that machine.
    assert losses[TowerStage] == pytest.approx([4.19956, 3.47157, 3.06798, 2.93523], rel=5e-3)
    assert losses[LanguageStage] == pytest.approx(
        [15.91928, 15.82942, 15.98718, 15.34958, 14.71278, 14.37111], rel=5e-3
    )
    folder = tmp_path / "tiny-llada-v-language"
    assert list(folder.glob("logs/version_0/dcam/train/validation-96-000000/contact-sheet.png"))
    saved = torch.load(folder / "last.ckpt", weights_only=False)["callbacks"]
    assert len(saved) == 3  # averaged weights, checkpoints, maps
    (maps,) = (state for name, state in saved.items() if name.startswith("DiffusionCAM"))
    assert maps["history"][0]["step"] == 0
    assert maps["failed"] == 0
    assert any(name.startswith(ModelCheckpoint.__name__) for name in saved)
