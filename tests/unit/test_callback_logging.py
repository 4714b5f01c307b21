"""What the training callback gives to loggers and keeps in checkpoints."""

import csv
import io
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from support.toy_training import ToyTraining, batches, fit, scene, trainer

from dcam_core.errors import ConfigurationError
from dcam_core.testing.toy import toy_picture
from dcam_core.training import DiffusionCAM
from dcam_core.training.contact_sheet import ContactSheet
from dcam_core.training.notebook import Notebook, tag
from dcam_core.training.showing import ShownSample, ShownWord, mean_scores

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SMALL = {"probe_layer": 0, "words": ["circle"], "max_time_fraction": None, "strict": True}
OVERLAY, SHEET = "dcam/train/scene/circle", "dcam/train/scene/contact-sheet"


# -- loggers -------------------------------------------------------------------------------------------------


def test_tensorboard_holds_the_pictures_and_the_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    callback = DiffusionCAM([scene()], every_n_train_steps=2, deletion_intervals=2, **SMALL)
    fit(tmp_path, callback, max_steps=4, logger=logger)
    events = accumulator.EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images(OVERLAY)] == [0, 2, 4]
    first, *_, last = (Image.open(io.BytesIO(event.encoded_image_string)) for event in events.Images(SHEET))
    assert last.width == first.width + 2 * 138  # two more moments: a tile and a gap each
    assert np.array_equal(
        np.asarray(last), np.asarray(callback._album.sheets["train", "scene"].draw("scene: a red circle"))
    )
    names = set(events.Tags()["scalars"])
    measured = {"visual-reliance", "probability", "deletion-auc", "insertion-auc", "pointing-game"}
    measured |= {"seconds", "left-out"}
    assert {f"dcam/train/{name}" for name in measured} <= names
    assert events.Scalars("dcam/train/probability")[-1].value == pytest.approx(
        callback.history[-1]["scores"]["probability"]
    )


@pytest.mark.parametrize("logger", [None, CSVLogger], ids=["no logger", "csv"])
def test_where_no_logger_takes_pictures_they_become_files(tmp_path, logger):
    callback = DiffusionCAM([scene()], every_n_train_steps=2, metrics=[], **SMALL)
    fit(tmp_path, callback, max_steps=2, logger=logger(tmp_path) if logger else False)
    files = sorted(path.name for path in tmp_path.rglob(f"{OVERLAY}/*.png"))
    assert files == ["step-00000000.png", "step-00000002.png"]
    (sheet,) = tmp_path.rglob(f"{SHEET}.png")  # the last one
    drawn = callback._album.sheets["train", "scene"].draw("scene: a red circle")
    assert np.array_equal(np.asarray(Image.open(sheet)), np.asarray(drawn))
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as lines:
        steps = [row["step"] for row in csv.DictReader(lines) if row["dcam/train/probability"]]
    assert steps == ["0", "2"]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder of its own for what loggers write, who ask nothing of any network."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_SILENT", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    return tmp_path


def check_pictures(callback, overlays, sheets):
    """Of three moments each, and the last contact sheet is the one that the callback has."""
    assert len(overlays) == len(sheets) == 3
    assert all(Image.open(path).mode == "RGB" for path in overlays)
    drawn = callback._album.sheets["train", "scene"].draw("scene: a red circle")
    assert np.array_equal(np.asarray(Image.open(sheets[-1])), np.asarray(drawn))


def test_wandb_holds_the_pictures_and_the_numbers(alone):
    wandb = pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=alone, project="dcam", offline=True)
    callback = DiffusionCAM([scene()], every_n_train_steps=2, **SMALL)
    fit(alone, callback, max_steps=4, logger=logger)
    run = logger.experiment
    probability = callback.history[-1]["scores"]["probability"]
    assert run.summary["dcam/train/probability"] == pytest.approx(probability)
    assert run.summary["trainer/global_step"] == 4
    media = Path(run.dir)
    assert (media / run.summary[SHEET]["filenames"][0]).is_file()  # the tag shows the last one
    wandb.finish()

    def kept(tag):
        files = (media / "media/images" / tag).parent.glob(f"{Path(tag).name}_*.png")
        return sorted(files, key=lambda path: int(path.stem.split("_")[-2]))

    check_pictures(callback, kept(OVERLAY), kept(SHEET))


def test_mlflow_holds_the_pictures_and_the_numbers(alone):
    pytest.importorskip("mlflow")
    logger = MLFlowLogger(
        "dcam", tracking_uri=f"sqlite:///{alone}/mlflow.db", artifact_location=str(alone / "kept")
    )
    callback = DiffusionCAM([scene()], every_n_train_steps=2, **SMALL)
    fit(alone, callback, max_steps=4, logger=logger)
    client, run = logger.experiment, logger.run_id
    history = client.get_metric_history(run, "dcam/train/probability")
    assert [(item.step, item.value) for item in history] == [
        (moment["step"], pytest.approx(moment["scores"]["probability"])) for moment in callback.history
    ]
    images = [item.path for item in client.list_artifacts(run, "images") if item.path.endswith(".png")]

    def kept(tag):
        named = [path for path in images if path.startswith(f"images/{tag.replace('/', '~')}+step+")]
        named.sort(key=lambda path: int(path.split("+")[2]))
        return [client.download_artifacts(run, path) for path in named]

    check_pictures(callback, kept(OVERLAY), kept(SHEET))
    Notebook(trainer(alone, logger=logger)).picture("dcam/train/scène/苹果", toy_picture(), 6)
    names = [item.path for item in client.list_artifacts(run, "images")]
    assert any("~scu00e8ne~u82f9u679c+step+6+" in name for name in names)


class Plain(Logger):
    name, version = "plain", 0

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params): ...


class Wandb(Plain):
    def __init__(self):
        super().__init__()
        self.calls = []

    def log_image(self, key, images, step=None, **kwargs):
        self.calls.append((key, len(images), step))


class Experiment:
    def __init__(self):
        self.calls = []


class MlflowClient(Experiment):
    def log_image(self, run_id, image, artifact_file=None, key=None, step=None):
        self.calls.append((run_id, key, step))


class CometExperiment(Experiment):
    def log_image(self, image_data, name=None, overwrite=False, step=None):
        self.calls.append((name, step))


class Holding(Plain):
    run_id = "run-7"

    def __init__(self, experiment):
        super().__init__()
        self.held = experiment

    @property
    def experiment(self):
        return self.held


def test_every_logger_gets_pictures_in_its_own_way(tmp_path):
    loggers = [Wandb(), Holding(MlflowClient()), Holding(CometExperiment())]
    Notebook(trainer(tmp_path, logger=loggers)).picture("dcam/train/a/b", toy_picture(), 3)
    assert loggers[0].calls == [("dcam/train/a/b", 1, 3)]
    assert loggers[1].held.calls == [("run-7", "dcam/train/a/b", 3)]
    assert loggers[2].held.calls == [("dcam/train/a/b", 3)]
    assert list(tmp_path.rglob("*.png")) == []


def test_tags_hold_nothing_that_loggers_or_file_systems_refuse():
    assert (
        tag("dcam", "train", "../val 2014/7.jpg", "métro:x=1", "..")
        == "dcam/train/_val_2014_7.jpg/métro_x_1/_"
    )


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_with_its_contact_sheet(tmp_path):
    def made(every):
        return DiffusionCAM([scene()], every_n_train_steps=every, metrics=[], reliance=False, **SMALL)

    saving = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=2)
    L.seed_everything(1, verbose=False)
    # Lightning writes checkpoints after all other callbacks were called.
    trainer(tmp_path, made(2), saving, max_steps=4, enable_checkpointing=True).fit(ToyTraining(), batches())
    resumed = made(1)  # another cadence, the same maps
    path = tmp_path / "last.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"][resumed.state_key]["history"][-1]["step"] == 4
    trainer(tmp_path, resumed, max_steps=6).fit(ToyTraining(), batches(), ckpt_path=path, weights_only=True)
    assert [moment["step"] for moment in resumed.history] == [0, 2, 4, 5, 6]
    assert resumed._album.sheets["train", "scene"].steps == (0, 2, 4, 5, 6)


# -- contact sheets and scores -------------------------------------------------------------------------------


def shown(*words):
    return ShownSample("a", toy_picture(), "a red circle", tuple(words))


def test_a_contact_sheet_keeps_the_ends_and_spreads_the_rest():
    sheet = ContactSheet(max_frames=4)
    for step in range(0, 101, 10):
        sheet.add(step, shown(ShownWord("red", torch.rand(3, 4), {})))
    first, *between, last = sheet.steps
    assert (first, last, len(between)) == (0, 100, 2)
    assert min(after - before for before, after in zip(sheet.steps, sheet.steps[1:], strict=False)) >= 20


def test_a_contact_sheet_begins_anew_with_another_picture_and_can_be_made_shorter():
    long, short = ContactSheet(max_frames=9), ContactSheet(max_frames=3)
    for step in range(8):
        long.add(step, shown(ShownWord("red", torch.rand(3, 4), {})))
    short.load_state_dict(long.state_dict())
    short.add(8, shown(ShownWord("red", torch.rand(3, 4), {})))
    assert short.steps[0] == 0
    assert short.steps[-1] == 8
    assert len(short.steps) == 3
    upright = ShownSample(
        "a", toy_picture((36, 48)), "a red circle", (ShownWord("red", torch.rand(4, 3), {}),)
    )
    short.add(9, upright)
    assert short.steps == (9,)
    assert short.draw("a").height > long.draw("a").height


def test_an_empty_contact_sheet_cannot_be_drawn_and_one_without_words_can():
    sheet = ContactSheet()
    with pytest.raises(ConfigurationError, match="is empty"):
        sheet.draw("a")
    sheet.add(0, shown())
    assert sheet.draw("a").mode == "RGB"


def test_scores_are_averaged_over_the_words_that_have_them():
    one, other = (
        ShownWord("red", torch.zeros(1, 1), {"p": 0.5}),
        ShownWord("circle", torch.zeros(1, 1), {"p": 1.0, "q": 3.0}),
    )
    assert mean_scores([shown(one, other), shown()]) == {"p": 0.75, "q": 3.0}
