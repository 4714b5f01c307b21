"""When the training callback explains, and what of: several optimisers, early ends, second trainings, samples."""

import re
from dataclasses import replace

import pytest
import torch
from support.toy_training import ToyTraining, batches, fit, scene, trainer

from dcam_core.errors import ConfigurationError, UnknownNameError
from dcam_core.testing.toy import toy_adapter
from dcam_core.training import DiffusionCAM
from dcam_core.training.samples import SampleSource
from dcam_core.training.showing import SampleShower

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

SMALL = {"probe_layer": 0, "words": ["circle"], "metrics": [], "reliance": False}
SHOWN = {**SMALL, "max_time_fraction": None, "strict": True}


def steps(callback):
    return [moment["step"] for moment in callback.history]


class TwoOptimisers(ToyTraining):
    """Both step for every batch: the trainer's steps are 2, 4, 6."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        for optimiser in self.optimizers():
            optimiser.step()
            optimiser.zero_grad()

    def configure_optimizers(self):
        parts = self.model.blocks, self.model.head
        return [torch.optim.SGD(part.parameters(), 1e-3) for part in parts]


def test_no_moment_is_stepped_over_by_several_optimisers(tmp_path):
    callback = DiffusionCAM([scene()], every_n_train_steps=3, **SHOWN)
    fit(tmp_path, callback, module=TwoOptimisers(), max_steps=12)
    assert steps(callback) == [0, 4, 6, 10, 12]


class Stopped(ToyTraining):
    """Ends its epoch after two of eight steps."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 else None


def test_a_training_that_ends_within_an_epoch_is_explained_at_its_end_and_a_second_one_begins_anew(tmp_path):
    callback = DiffusionCAM([scene()], **SHOWN)
    fit(tmp_path, callback, max_steps=3)
    assert steps(callback) == [0, 3]
    fit(tmp_path, callback, module=Stopped(), max_epochs=1)
    assert steps(callback) == [0, 2]
    assert callback._album.sheets["train", "scene"].steps == (0, 2)
    chosen = DiffusionCAM(lambda batch: [scene()], **SHOWN)
    fit(tmp_path, chosen, max_steps=1)
    assert steps(chosen) == [1]


def test_a_function_may_choose_among_all_batches_and_callbacks_have_names(tmp_path):
    asked = []

    def third(batch, batch_idx, dataloader_idx):
        asked.append((batch_idx, dataloader_idx))
        return [scene(f"batch-{batch_idx}")] if batch_idx == 2 else []

    callback = DiffusionCAM(third, **SHOWN)
    other = DiffusionCAM([scene()], name="other", **SHOWN)
    trainer(tmp_path, callback, other, limit_test_batches=4).test(ToyTraining(), batches(), verbose=False)
    assert asked == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [moment["samples"] for moment in callback.history] == [["batch-2"]]
    assert len(other.history) == 1
    pictures = {path.relative_to(tmp_path).parts[2:5] for path in tmp_path.rglob("*.png")}
    assert {("dcam", "test", "batch-2"), ("other", "test", "scene")} <= pictures
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `DiffusionCAM`"):
        trainer(tmp_path, callback, DiffusionCAM([scene()], **SHOWN))


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_a_wrong_setting_is_told_before_anything_is_done(tmp_path, verb):
    module = ToyTraining()
    callback = DiffusionCAM(lambda batch: [], method="no-such-method", every_n_train_steps=100)
    with pytest.raises(UnknownNameError, match="no-such-method"):
        getattr(trainer(tmp_path, callback, max_steps=1), verb)(module, batches())
    assert module.losses == []


# -- samples -------------------------------------------------------------------------------------------------


def masked(change):
    sample = scene()
    first, *others = sample.objects
    return replace(sample, objects=[replace(first, mask=change(first.mask)), *others])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (lambda: [], "no samples to explain"),
        (scene, "`samples` is the one sample 'scene': give a list"),
        (lambda: 7, "`samples` is a int: give a list"),
        (lambda: [scene(), "scene"], "samples[1] is a str: give a dcam_core.dataset.Sample"),
        (lambda: [scene("a b"), scene("a:b")], "samples 'a b' and 'a:b' would share the tag 'a_b'"),
        (lambda: [replace(scene(), image="a.png")], "sample 'scene': its image is a str"),
        (lambda: [replace(scene(), objects=["ring"])], "sample 'scene': one of its objects is a str"),
        (lambda: [masked(lambda mask: mask.numpy())], "the mask of 'a' is a ndarray: give a tensor"),
        (lambda: [masked(torch.Tensor.float)], "sample 'scene': the mask of 'a' is torch.float32"),
        (lambda: [masked(torch.Tensor.t)], "the mask of 'a' is [48, 36], and its picture [36, 48]"),
    ],
)
def test_wrong_samples_are_refused_at_once(samples, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        DiffusionCAM(samples())


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pictures_of_any_kind_become_rgb(mode):
    (sample,) = SampleSource([replace(scene(), image=scene().image.convert(mode))]).fixed
    assert sample.image.mode == "RGB"


def test_what_is_not_in_the_answer_is_told_once(tmp_path):
    callback = DiffusionCAM([scene()], every_n_train_steps=1, **{**SHOWN, "words": ["circle", "moon"]})
    with pytest.warns(UserWarning, match=r"'scene' \('a red circle'\) has no moon") as told:
        fit(tmp_path, callback, max_steps=1)
    assert steps(callback) == [0, 1]
    assert sum("has no moon" in str(item.message) for item in told) == 1


def test_a_probability_of_zero_is_a_number():
    adapter = toy_adapter()
    with torch.no_grad():
        adapter.model.head.weight *= 1e4  # so sure that the probabilities of all other words underflow
    shower = SampleShower.of(adapter, {"probe_layer": 0}, [], reliance=False)
    found = [word.scores["probability"] for word in shower.show(scene()).words]
    assert len(found) == 3
    assert 0.0 in found


def test_metrics_are_those_of_masks_by_their_names_or_all_together():
    labels = [
        [measure.label for measure in SampleShower.of(toy_adapter(), {}, metrics).measures]
        for metrics in (None, ["localisation"])
    ]
    assert labels[0] == labels[1] != []
    with pytest.raises(ConfigurationError, match="compare no map with a mask"):
        SampleShower.of(toy_adapter(), {}, ["faithfulness"])
