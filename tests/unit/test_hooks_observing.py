"""What each observing hook is told, and that it cannot disturb the run."""

from __future__ import annotations

import pytest
import torch

from dcam_core import Explainer
from dcam_core.plugins.failure import PluginWarning
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT = "the blue moon"


def explained(plugin, picture=None, targets=None, adapter=None):
    explainer = Explainer(adapter or toy_adapter(), "diffusion-cam", plugins=[plugin])
    return explainer.explain(picture or toy_picture(), PROMPT, targets=targets)


# -- dcam_denoising_step -------------------------------------------------------------------------------------


def test_denoising_step_tells_every_step_and_the_model():
    told = []

    def dcam_denoising_step(step, adapter):
        told.append((step, adapter, torch.is_grad_enabled()))

    model = toy_adapter()
    explanation = explained(dcam_denoising_step, adapter=model)
    with torch.no_grad():
        run = model.denoise(model.prepare(toy_picture(), PROMPT), model.default_sampler)
    assert len(told) == run.steps == len(explanation.steps)
    for index, (step, adapter, gradients) in enumerate(told):
        assert (step.index, step.total) == (index, run.settings.total_steps)
        assert torch.equal(step.ids, run.states[index + 1])
        assert step.committed.tolist() == (run.commit_steps == index).nonzero()[:, 0].tolist()
        assert adapter is model
        assert not gradients


# -- dcam_maps_made ------------------------------------------------------------------------------------------


def test_maps_made_tells_the_maps_of_the_explanation():
    told = []

    def dcam_maps_made(targets, raw, maps, picture):
        told.append((targets, raw, maps, picture))

    explanation = explained(dcam_maps_made, targets=["@2", "@0"])
    ((targets, raw, maps, picture),) = told
    assert [target.word for target in targets] == [target.word for target in explanation.targets]
    assert [target.positions for target in targets] == [(2,), (0,)]
    assert raw.shape == maps.shape == (2, 3, 4)
    assert raw.dtype == maps.dtype == torch.float32
    assert torch.equal(raw, explanation.raw)
    assert torch.equal(maps, explanation.maps)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert not torch.equal(raw, maps), "the refiners of the method come between the two"
    assert picture == 0


def test_maps_made_is_told_of_every_picture_by_its_number():
    told = {}

    def dcam_maps_made(raw, maps, picture):
        told[picture] = (raw, maps)

    pictures = [toy_picture((48, 36)), toy_picture((36, 48))]
    explanation = explained(dcam_maps_made, picture=pictures, targets=["@1"])
    assert list(told) == [0, 1]
    for number, part in enumerate(explanation.pictures):
        raw, maps = told[number]
        assert torch.equal(raw, part.raw)
        assert torch.equal(maps, part.maps)
    assert told[0][0].shape != told[1][0].shape, "a picture that stands upright has another grid"


# -- dcam_explained ------------------------------------------------------------------------------------------


def test_explained_tells_what_the_user_gets():
    told = []

    def dcam_explained(explanation):
        told.append(explanation)

    explanation = explained(dcam_explained)
    assert told == [explanation]
    assert told[0] is explanation


# -- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["dcam_denoising_step", "dcam_maps_made", "dcam_explained"])
def test_an_exception_is_a_warning_that_names_the_plugin_and_changes_nothing(hook):
    def broken():
        raise OSError("disk full")

    def quiet():
        return "ignored"

    broken.__name__ = quiet.__name__ = hook
    with pytest.warns(PluginWarning, match=f"broken.*failed in {hook}: OSError: disk full"):
        disturbed = explained(broken)
    assert torch.equal(disturbed.maps, explained(quiet).maps)
