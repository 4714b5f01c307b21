"""What the methods' plugin registers, and that its presets name what exists and parameters that fit."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import dcam_plugins.plugin as plugin
from dcam_core.attribution import Attribution, ModelAttribution
from dcam_core.dataset import ExplanationDataset
from dcam_core.metric import Metric
from dcam_core.model_measure import ModelMeasure
from dcam_core.plugins.registry import import_object
from dcam_core.refiner import Refiner

KINDS = ["attributions", "refiners", "methods", "metrics", "datasets"]


def registered(kind):
    names = {}
    getattr(plugin, f"dcam_register_{kind}")(lambda name, target, **_: names.update({name: target}))
    return names


def test_registering_imports_neither_torch_nor_kornia():
    # In a process of its own: here torch is loaded already.
    calls = "".join(f"plugin.dcam_register_{kind}(lambda *_, **__: None);" for kind in KINDS)
    code = (
        "import sys; import dcam_plugins.plugin as plugin;"
        f"{calls} print(sorted({{'torch', 'kornia', 'omegaconf'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("attributions", (Attribution, ModelAttribution)),
        ("refiners", Refiner),
        ("metrics", (Metric, ModelMeasure)),
        ("datasets", ExplanationDataset),
    ],
)
def test_every_registered_class_is_there(kind, base):
    for target in registered(kind).values():
        assert issubclass(import_object(target), base)


def test_the_presets_of_the_paper_are_offered():
    assert {"diffusion-cam", "diffusion-cam-reference", "grad-cam"} <= set(registered("methods"))


@pytest.mark.parametrize("name", registered("methods"))
def test_preset_builds(name):
    path = registered("methods")[name]
    assert isinstance(path, Path)
    preset = OmegaConf.to_container(OmegaConf.load(path))
    attribution = dict(preset["attribution"])
    import_object(registered("attributions")[attribution.pop("name")])(**attribution)
    for refiner, parameters in preset["refiners"].items():
        import_object(registered("refiners")[refiner])(**parameters)
    assert preset["description"]
    assert preset["mask_step"]
    assert preset["gradient_target"]["name"]


def test_diffusion_cam_refines_in_the_published_order():
    preset = OmegaConf.load(registered("methods")["diffusion-cam"])
    assert list(preset.refiners) == [
        "adaptive-kernel-denoising",
        "distribution-aware-confidence-gating",
        "contextual-background-attenuation",
        "min-max",
        "single-instance-causal-debiasing",
    ]
