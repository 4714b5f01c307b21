"""A method that names several layers: their maps are stretched, and averaged."""

from __future__ import annotations

import pytest
import torch

from dcam_core import Explainer, load_explanation
from dcam_core.errors import ConfigurationError, PluginError
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.testing.toy import toy_adapter, toy_picture

WORDS = ["@0", "@2", "@5"]


def explained(*overrides, method="grad-cam", **options):
    explainer = Explainer(toy_adapter(), method, overrides=overrides, **options)
    return explainer.explain(toy_picture(), "the red circle", targets=WORDS)


def test_the_maps_of_the_layers_are_stretched_and_averaged():
    views = "views=[grid]"  # where tokens are cells: what is stretched can be seen in the raw maps
    assert len(picture_grids(toy_adapter().prepare(toy_picture(), "the moon"), ["grid"])[0].positions) == 12
    layers = ["blocks.1.norm", "blocks.0"]
    stretched = []
    for layer in layers:
        raw = explained(f"probe_layer={layer}", views).raw
        low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
        assert (high > low).all()
        stretched.append((raw - low) / (high - low))
    fused = explained(f"probe_layer=[{','.join(layers)}]", views)
    torch.testing.assert_close(fused.raw, torch.stack(stretched).mean(0), atol=1e-5, rtol=1e-4)
    assert fused.settings["probe_layer"] == layers


def test_one_layer_in_a_list_is_that_layer():
    assert torch.equal(explained("probe_layer=[1]").raw, explained("probe_layer=1").raw)


@pytest.mark.parametrize("layers", [[0, 1.0], ("blocks.0", -1)])
def test_layers_can_be_chosen_by_value_and_by_function(layers):
    by_value = Explainer(toy_adapter(), "grad-cam", probe_layer=layers)
    by_function = Explainer(toy_adapter(), "grad-cam", probe_layer=lambda adapter: layers)
    assert by_value.layers == by_function.layers == ("blocks.0", "blocks.2")
    assert by_value.layer == ["blocks.0", "blocks.2"]


def test_they_are_kept_with_the_explanation(tmp_path):
    explanation = explained("probe_layer=[0,1]")
    explanation.save(tmp_path / "kept")
    assert load_explanation(tmp_path / "kept").settings["probe_layer"] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("[0, blocks.0]", "names 'blocks.0' twice"),
        ("[0, 9]", "probe_layer 9 is not a block of toy"),
    ],
)
def test_what_is_no_list_of_layers_is_refused(layers, found):
    with pytest.raises(ConfigurationError, match=found):
        Explainer(toy_adapter(), "grad-cam", overrides=[f"probe_layer={layers}"])


@pytest.mark.parametrize(("layers", "found"), [([], "an empty list"), ([[0]], "with a list: expected a mod")])
def test_a_function_must_answer_with_layers(layers, found):
    with pytest.raises(PluginError, match=found):
        Explainer(toy_adapter(), "grad-cam", probe_layer=lambda adapter: layers)
