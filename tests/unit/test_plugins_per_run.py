"""Plugins and plain functions of one engine: who is asked first, what is refused, what is written down."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from dcam_core import Explainer, GradientTarget, ProbeState, hookimpl, load_explanation
from dcam_core.errors import ConfigurationError, PluginError
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT = "the blue moon"


def explainer(*overrides, **options):
    return Explainer(toy_adapter(), "grad-cam", overrides=overrides, **options)


def explained(*overrides, targets=("@1",), **options):
    return explainer(*overrides, **options).explain(toy_picture(), PROMPT, targets=targets)


def first_state(target, trajectory):
    return [ProbeState(trajectory.states[0], target.positions, 0)]


def fifth_logit():
    return GradientTarget(lambda logits, token_ids: logits[0, 5])


def passing_on():
    return None


def called(name):
    return f"{__name__}.{name}"


# -- values --------------------------------------------------------------------------------------------------


def test_values_are_settings_and_stronger_than_overrides():
    by_value = explained(
        "mask_step=last",
        probe_layer=0,
        mask_step="infill",
        gradient_target={"name": "contrast", "against": "star"},
    )
    by_override = explained(
        "probe_layer=0", "mask_step=infill", "gradient_target={name: contrast, against: star}"
    )
    assert torch.equal(by_value.raw, by_override.raw)
    assert by_value.settings == by_override.settings
    assert "decided_by" not in by_value.settings


def test_a_gradient_target_by_name_leaves_the_methods_parameters_behind():
    made = explainer("gradient_target={name: contrast, against: star}", gradient_target="log-probability")
    assert made.method.gradient_target == {"name": "log-probability"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"probe_layer": {0}},
            r"probe_layer is \{0\}: give a value \(int or float or str or .*\), or a function",
        ),
        ({"probe_layer": True}, "probe_layer is True: give a value"),
        (
            {"probe_layer": toy_adapter().model.blocks[0]},
            r"probe_layer is a module \(ToyBlock\): give a value",
        ),
        ({"mask_step": 0.5}, "mask_step is 0.5: give a value"),
        ({"mask_step": ProbeState}, "mask_step is the class ProbeState: give a value"),
        ({"gradient_target": {"reduction": "sum"}}, "has no 'name'"),
        ({"probe_layer": 9}, "probe_layer 9 is not a block of toy"),
    ],
)
def test_what_is_neither_value_nor_function_is_refused(choice, message):
    with pytest.raises(ConfigurationError, match=message):
        explainer(**choice)


# -- functions -----------------------------------------------------------------------------------------------


def test_a_function_of_any_name_decides():
    plain = explained("probe_layer=blocks.0.norm", "mask_step=first")
    mine = explained(
        probe_layer=lambda adapter: f"{adapter.layer_path(0)}.norm",
        mask_step=first_state,
        gradient_target=lambda target: GradientTarget(
            lambda logits, token_ids: logits[0, target.token_ids[0]]
        ),
    )
    assert torch.equal(mine.raw, plain.raw)


@pytest.mark.parametrize("number", [0, 2])
def test_what_can_be_called_is_a_function(number):
    def chosen(number, method):
        assert method["name"] == "grad-cam"
        return number

    class Chooser:
        def choose(self):
            return number

        def __call__(self, adapter):
            return number

    for function in (functools.partial(chosen, number), Chooser().choose, Chooser()):
        assert explainer(probe_layer=function).layer == f"blocks.{number}"


def test_functions_are_asked_before_plugins_and_plugins_before_the_methods_setting():
    class Plugin:
        @hookimpl
        def dcam_probe_layer(self, method):
            return 1 if method["probe_layer"] == 2 else None

    def layer(**options):
        return explainer("probe_layer=2", **options).layer

    assert layer(plugins=[Plugin()], probe_layer=lambda: 0) == "blocks.0"
    assert layer(plugins=[Plugin()], probe_layer=passing_on) == "blocks.1"
    assert layer(probe_layer=passing_on) == "blocks.2"
    assert layer() == "blocks.2"


def test_installed_plugins_choose_the_layer_only_where_the_method_leaves_it_open():
    class Plugin:
        @hookimpl
        def dcam_probe_layer(self):
            return 0

    manager = PluginManager()
    manager.register(Plugin(), "mine")
    assert explainer(manager=manager).layer == "blocks.0"
    assert explainer("probe_layer=2", manager=manager).layer == "blocks.2"


@pytest.mark.parametrize("setting", ["probe_layer", "mask_step", "gradient_target"])
def test_a_function_that_passes_on_changes_nothing(setting):
    plain, mine = explained("probe_layer=0"), explained("probe_layer=0", **{setting: passing_on})
    assert torch.equal(mine.raw, plain.raw)
    assert "decided_by" not in mine.settings
    assert mine.targets[0].state == "commit"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"mask_step": lambda polcy: None},
            r"as mask_step\) cannot be used: dcam_mask_step asks for .*'polcy'",
        ),
        ({"mask_step": lambda **arguments: None}, r"takes \*\*arguments: name the arguments that it wants"),
        ({"probe_layer": max}, "whose arguments cannot be read: write a function"),
        ({"probe_layer": lambda: object()}, r"as probe_layer\) answered dcam_probe_layer with an object"),
        ({"probe_layer": lambda: 9}, r"answered dcam_probe_layer with 9: expected a layer of this model"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_when_the_engine_is_made(choice, message):
    with pytest.raises(PluginError, match=message):
        explainer(**choice)


def test_a_class_given_as_a_plugin_is_refused():
    class Plugin:
        @hookimpl
        def dcam_probe_layer(self):
            raise AssertionError("never called")

    with pytest.raises(PluginError, match=r"it is the class .*Plugin: give an instance of it"):
        explainer(plugins=[Plugin])


# -- what is written down ------------------------------------------------------------------------------------


def test_what_functions_decided_is_recorded_as_plain_data(tmp_path):
    made = explained(
        "gradient_target.reduction=sum",
        probe_layer=lambda: 0,
        mask_step=first_state,
        gradient_target=fifth_logit,
    )
    saved = load_explanation(made.save(tmp_path / "out"))
    assert json.loads(json.dumps(made.settings)) == saved.settings
    name = called("test_what_functions_decided_is_recorded_as_plain_data.<locals>.<lambda>")
    assert saved.settings["probe_layer"] == "blocks.0"
    assert saved.settings["mask_step"] == called("first_state")
    assert saved.settings["gradient_target"] == {"name": called("fifth_logit"), "reduction": "sum"}
    assert saved.settings["decided_by"] == {
        "probe_layer": [f"function '{name}' (passed to this engine as probe_layer)"],
        "mask_step": [f"function '{called('first_state')}' (passed to this engine as mask_step)"],
        "gradient_target": [f"function '{called('fifth_logit')}' (passed to this engine as gradient_target)"],
    }
    assert saved.targets[0].state == called("first_state")


def test_what_decides_some_targets_only_is_said_target_by_target():
    def first_for_one(target, trajectory):
        return first_state(target, trajectory) if target.positions == (1,) else None

    made = explained("probe_layer=0", targets=["@1", "@3"], plugins=[], mask_step=first_for_one)
    assert [target.state for target in made.targets] == [
        called("test_what_decides_some_targets_only_is_said_target_by_target.<locals>.first_for_one"),
        "commit",
    ]


def test_an_installed_plugin_that_decided_is_recorded():
    class Plugin:
        @hookimpl
        def dcam_mask_step(self, policy, target, trajectory):
            return first_state(target, trajectory) if policy == "mine" else None

    manager = PluginManager()
    manager.register(Plugin(), "my-policies")
    made = explained("probe_layer=0", "mask_step=mine", manager=manager)
    assert made.settings["mask_step"] == made.targets[0].state == "mine"
    assert made.settings["decided_by"] == {"mask_step": ["plugin 'my-policies'"]}
