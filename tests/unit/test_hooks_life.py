"""The life of a run as it is documented, lived through by a plugin that has every hook."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from dcam_core import Explainer, hookimpl, hookspecs
from dcam_core.plugins import PluginManager
from dcam_core.plugins.life import LIFE
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture

HOOKS = [name for name in vars(hookspecs) if name.startswith("dcam_")]
TARGETS = ["@0", "@2", "@3"]


def running() -> set[str]:
    """Every function that is being executed, as "module:qualified.name"."""
    frame, found = sys._getframe(), set()
    while frame is not None:
        found.add(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found


def diary_of(hook, heard):
    """An implementation that writes down that it was called, and during which functions."""

    def implementation():
        heard.append((hook, running()))

    return hookimpl(implementation, specname=hook)


@pytest.fixture
def heard(monkeypatch):
    """What the recorder heard; it is the module `recorder`, with every hook."""
    heard = []
    recorder = ModuleType("recorder")
    for hook in HOOKS:
        setattr(recorder, hook, diary_of(hook, heard))
    monkeypatch.setitem(sys.modules, "recorder", recorder)
    return heard


def manager():
    return PluginManager(autoload=False, extra=["dcam_plugins.plugin", "recorder"])


def expected(**times: int) -> list[str]:
    """The hooks of a life in which there are so many of each thing."""
    return [
        hook for phase in LIFE for _ in range(times[phase.each.replace(" ", "_")]) for hook in phase.hooks
    ]


def test_a_life_has_every_hook_once():
    assert sorted(hook for phase in LIFE for hook in phase.hooks) == sorted(HOOKS)


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_hooks_are_called_in_the_documented_order_and_as_often(heard, pictures):
    explainer = Explainer(toy_adapter(), "grad-cam", manager=manager())
    picture = [toy_picture()] * pictures if pictures > 1 else toy_picture()
    explanation = explainer.explain(picture, "the blue moon", targets=TARGETS)
    assert [hook for hook, _ in heard] == expected(
        plugin=1,
        explainer=1,
        denoising_step=len(explanation.steps),
        target=len(TARGETS),
        picture=pictures,
        explanation=1,
    )
    callers = {hook: phase.caller for phase in LIFE for hook in phase.hooks}
    assert [hook for hook, during in heard if callers[hook] not in during] == []


def test_a_second_explanation_repeats_what_belongs_to_it(heard):
    explainer = Explainer(toy_adapter(), "grad-cam", manager=manager())
    explainer.explain(toy_picture(), "the blue moon", targets=TARGETS)
    heard.clear()
    explanation = explainer.explain(toy_picture(), "the blue moon", targets=["@1"])
    assert [hook for hook, _ in heard] == expected(
        plugin=0, explainer=0, denoising_step=len(explanation.steps), target=1, picture=1, explanation=1
    )


def test_a_written_answer_is_explained_without_the_hooks_around_it(heard):
    model = toy_adapter()
    explainer = Explainer(model, "grad-cam", manager=manager())
    inputs = model.prepare(toy_picture(), "the blue moon")
    trajectory = model.denoise(inputs, model.default_sampler)
    answer = read_answer(trajectory.answer_ids, model.tokenizer)
    heard.clear()
    explainer.explain_run(inputs, trajectory, answer, select_targets(answer, TARGETS))
    assert [hook for hook, _ in heard] == expected(
        plugin=0, explainer=0, denoising_step=0, target=len(TARGETS), picture=1, explanation=0
    )


def test_a_layer_that_the_method_names_is_not_asked_for(heard):
    Explainer(toy_adapter(), "grad-cam", overrides=["probe_layer=1"], manager=manager())
    assert "dcam_probe_layer" not in [hook for hook, _ in heard]


def test_making_a_manager_calls_nothing(heard):
    asked = manager()
    assert heard == []
    asked.load()
    asked.load()
    assert [hook for hook, _ in heard] == list(LIFE[0].hooks)
