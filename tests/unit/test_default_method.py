"""The method of everybody who names none: one name for all, and it works whatever is asked."""

from __future__ import annotations

import inspect

import pytest
import torch

from dcam_core import Explainer, load_explanation, load_model
from dcam_core.cli.explain import explain
from dcam_core.method import DEFAULT_METHOD
from dcam_core.results.report.html import render_report
from dcam_core.testing.toy import toy_adapter, toy_picture
from dcam_plugins.scenes import Scenes

PROMPT = "the red circle"


def test_library_and_command_line_have_the_same_default():
    (option,) = (parameter for parameter in explain.params if parameter.name == "method")
    assert option.default == inspect.signature(Explainer).parameters["method"].default == DEFAULT_METHOD
    assert Explainer(toy_adapter()).method.name == DEFAULT_METHOD == "dcam"


@pytest.mark.parametrize(
    ("pictures", "targets", "asked"),
    [
        ([toy_picture()], None, {}),
        ([toy_picture(), toy_picture((36, 48))], "all", {}),
        ([toy_picture()], "all", {"answer": "a blue square"}),
        (
            [toy_picture(), toy_picture((36, 48))],
            ["square"],
            {"answer": "a blue square", "why_not": "circle"},
        ),
        ([toy_picture()], "all", {"over_time": 3}),
    ],
    ids=["grounded words", "several pictures", "a given answer", "why not, on two pictures", "over time"],
)
def test_whatever_is_asked_has_maps_as_fine_as_the_picture_and_is_kept(tmp_path, pictures, targets, asked):
    explained = Explainer(toy_adapter()).explain(pictures, PROMPT, targets, grounded_above=-10.0, **asked)
    assert len(explained.targets) > 0
    for part in explained.pictures:
        assert part.maps.shape[1:] == part.picture.size[::-1]
        assert part.raw.shape[1:] in ((3, 4), (4, 3))
    together = torch.cat([part.maps.flatten(1) for part in explained.pictures], dim=1)
    assert together.amax(1).tolist() == pytest.approx([1.0] * len(together), abs=1e-3)
    assert together.min() >= 0

    explained.save(tmp_path / "saved")
    again = load_explanation(tmp_path / "saved")
    for part, kept in zip(explained.pictures, again.pictures, strict=True):
        assert torch.equal(part.maps, kept.maps)
    assert render_report(again) == render_report(explained)
    assert render_report(again).count('class="card"') == len(explained.targets)


def test_a_model_in_half_precision_gets_nearly_the_same_maps():
    picture = Scenes("test", 5)[4].image
    full, half = (
        Explainer(load_model("tiny-llada-v", dtype=dtype)).explain(
            picture, "describe the picture", ["heart"], answer="a green heart", baselines=()
        )
        for dtype in ("float32", "bfloat16")
    )
    assert half.model["dtype"] == "bfloat16"
    assert half.maps.dtype == torch.float32
    assert (full.maps - half.maps).abs().mean() < 0.02
