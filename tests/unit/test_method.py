"""Merging a method: preset < checkpoint's measured defaults < overrides."""

from __future__ import annotations

import pytest

from dcam_core.errors import ConfigurationError, UnknownNameError
from dcam_core.explainer import Explainer
from dcam_core.method import find_method, resolve_method
from dcam_core.plugins.registry import Registry
from dcam_core.testing.toy import toy_adapter

PRESET = """
description: a preset
attribution: {name: grad-cam}
mask_step: commit
refiners:
  first: {strength: 1}
  second: {}
"""


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET)
    return path


def test_a_preset_alone(preset):
    method = resolve_method("mine", preset)
    assert method.name == "mine"
    assert method.mask_step == "commit"
    assert method.probe_layer is None
    assert method.gradient_target == {"name": "logit"}
    assert list(method.refiners) == ["first", "second"]


def test_each_layer_is_stronger_than_the_last(preset, tmp_path):
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "explain.yaml").write_text(
        "mine: {probe_layer: 2, mask_step: infill}\nother: {probe_layer: 0}\n"
    )
    measured = resolve_method("mine", preset, checkpoint=checkpoint)
    assert (measured.probe_layer, measured.mask_step) == (2, "infill")
    user = resolve_method("mine", preset, checkpoint=checkpoint, overrides=["mask_step=first"])
    assert (user.probe_layer, user.mask_step) == (2, "first")


def test_overrides_reach_inside(preset):
    method = resolve_method(
        "mine",
        preset,
        overrides=[
            "refiners.first.strength=3",
            "refiners.second=null",
            "refiners.third={}",
            "views=[base]",
            "sampler.steps=4",
        ],
    )
    assert method.refiners == {"first": {"strength": 3}, "second": None, "third": {}}
    assert method.views == ("base",)
    assert method.sampler == {"steps": 4}
    nested = resolve_method("mine", preset, overrides={"refiners": {"first": {"strength": 3}}})
    assert nested.refiners["first"] == {"strength": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask_step: commit\n", "names no attribution"),
        ("attribution: {power: 2}\n", "attribution has no 'name'"),
        ("attribution: {name: a}\nlayer: 3\n", "unknown setting 'layer'"),
        ("attribution: {name: a}\nsampler: 3\n", "write sampler.NAME=VALUE"),
        ("- a\n", "is not a mapping"),
        ("attribution: {name: [\n", "is not valid YAML"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        resolve_method("wrong", path)


@pytest.mark.parametrize("setting", ["mask_step", "=3", " =3"])
def test_a_setting_is_key_and_value(preset, setting):
    with pytest.raises(ConfigurationError, match="is not key=value"):
        resolve_method("mine", preset, overrides=[setting])


def test_a_method_is_found_by_any_spelling_of_its_name_or_by_its_file(preset):
    registry = Registry("method")
    registry.add("my-method", preset, plugin="mine")
    assert {find_method(name, registry) for name in ("my-method", "My_Method")} == {("my-method", preset)}
    assert find_method(preset, registry) == find_method(str(preset), registry) == ("mine", preset)
    with pytest.raises(UnknownNameError, match="'mine'"):
        find_method("mine", registry)


def test_a_checkpoints_own_settings_count_however_the_method_is_spelt(tmp_path):
    adapter = toy_adapter()
    adapter.folder = tmp_path
    (tmp_path / "explain.yaml").write_text("grad-cam: {probe_layer: 1, mask_step: infill}\n")
    method, other = (Explainer(adapter, name).method for name in ("grad-cam", "Grad_CAM"))
    assert other == method
    assert (method.probe_layer, method.mask_step) == (1, "infill")


@pytest.mark.parametrize(
    ("setting", "overrides", "expected"),
    [
        ("attribution", ["attribution.name=layer-cam"], {"name": "layer-cam"}),
        (
            "attribution",
            ["attribution.name=grad-cam", "attribution.gate=true"],
            {"name": "grad-cam", "gate": True},
        ),
        ("attribution", ["attribution.centre=false"], {"name": "hires-cam", "centre": False}),
        ("attribution", ["attribution.name=HiRes_CAM"], {"name": "HiRes_CAM", "centre": True}),
        ("gradient_target", {"gradient_target": {"name": "logit"}}, {"name": "logit"}),
    ],
)
def test_parameters_belong_to_the_name_beside_them(tmp_path, setting, overrides, expected):
    (tmp_path / "own.yaml").write_text(
        "attribution: {name: hires-cam, centre: true}\ngradient_target: {name: contrast, against: dog}\n"
    )
    assert getattr(resolve_method("own", tmp_path / "own.yaml", overrides=overrides), setting) == expected
