"""What each registering hook is given, and that users get what a plugin registers with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dcam_core import (
    Attribution,
    Explainer,
    ExplanationDataset,
    Metric,
    ModelMeasure,
    Refiner,
    Sample,
    SampleObject,
    hookimpl,
    load_model,
)
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation import evaluate
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import ToyAdapter, toy_adapter, toy_picture

PROMPT = "the blue moon"


class GradientNorm(Attribution):
    """Evidence: the length of the gradient."""

    def forward(self, activations, gradients):
        return gradients.norm(dim=-1)


class Inverted(Refiner):
    """The map turned round."""

    def forward(self, maps, context):
        return 1 - maps


class Area(Metric):
    """Share of the object that is brighter than a half."""

    def score(self, maps, masks):
        return ((maps > 0.5) & masks).sum((1, 2)).double() / masks.sum((1, 2))


class Ponds(ExplanationDataset):
    """One picture."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if index != 0:
            raise IndexError(index)
        moon = SampleObject(("moon",), torch.arange(36 * 48).view(36, 48) < 200)
        return Sample("pond", toy_picture(), PROMPT, [moon], caption="a red moon")


@pytest.fixture
def loaded(monkeypatch):
    """A manager that loaded dcam's own methods and one plugin with the given hooks."""

    def loaded(*hooks):
        plugin = ModuleType("mine")
        for hook in hooks:
            setattr(plugin, hook.__name__, hookimpl(hook))
        monkeypatch.setitem(sys.modules, "mine", plugin)
        return PluginManager(autoload=False, extra=["dcam_plugins.plugin", "mine"], strict=True)

    return loaded


def method(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_adapters_recognise_their_checkpoints(loaded, tmp_path):
    def dcam_register_adapters(register):
        register("Pond_Net", ToyAdapter, architectures=["PondForMaskedDiffusion"], model_types=["pond"])

    (tmp_path / "config.json").write_text('{"architectures": ["PondForMaskedDiffusion"]}')
    manager = loaded(dcam_register_adapters)
    assert isinstance(load_model(tmp_path, manager=manager), ToyAdapter)
    assert manager.registries.adapters.recognise({"model_type": "pond"}).name == "pond-net"


def test_adapters_say_how_their_tensors_are_named(loaded):
    def dcam_register_adapters(register):
        register("pond", ToyAdapter, tensors=[r"pond\.\d+\.depth"])

    adapters = loaded(dcam_register_adapters).registries.adapters
    assert [entry.name for entry in adapters.resembling(["pond.0.depth", "head"])] == ["pond"]
    assert adapters.resembling(["lake.0.depth"]) == []


def test_attributions_are_asked_for_by_a_method(loaded, tmp_path):
    def dcam_register_attributions(register):
        register("gradient-norm", GradientNorm)

    path = method(tmp_path, "attribution: {name: gradient-norm}\nprobe_layer: 0\n")
    explainer = Explainer(toy_adapter(), path, manager=loaded(dcam_register_attributions))
    assert explainer.explain(toy_picture(), PROMPT, targets=["@1"]).raw.min() > 0


def test_refiners_are_asked_for_by_a_method(loaded, tmp_path):
    def dcam_register_refiners(register):
        register("inverted", Inverted)

    plain = method(tmp_path, "attribution: {name: grad-cam}\nprobe_layer: 0\nrefiners: {inverted: {}}\n")
    manager = loaded(dcam_register_refiners)
    turned = Explainer(toy_adapter(), plain, manager=manager).explain(toy_picture(), PROMPT, ["@1"])
    left = Explainer(toy_adapter(), plain, overrides=["refiners.inverted=null"], manager=manager)
    torch.testing.assert_close(turned.maps, 1 - left.explain(toy_picture(), PROMPT, ["@1"]).maps)


def test_methods_are_asked_for_by_name(loaded, tmp_path):
    path = method(tmp_path, "attribution: {name: hires-cam}\nprobe_layer: 2\n")

    def dcam_register_methods(register):
        register("house-method", path)

    explainer = Explainer(toy_adapter(), "house-method", manager=loaded(dcam_register_methods))
    assert (explainer.method.name, explainer.layer) == ("house-method", "blocks.2")


def test_models_are_asked_for_by_name(loaded, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 7}')

    def dcam_register_adapters(register):
        register("toy", ToyAdapter)

    def dcam_register_models(register):
        register("little-pond", tmp_path, adapter="toy", demo_prompt="what swims here?")

    manager = loaded(dcam_register_adapters, dcam_register_models)
    model = load_model("little-pond", manager=manager)
    assert torch.equal(model.model.head.weight, toy_adapter(seed=7).model.head.weight)
    assert (model.name, model.folder) == ("little-pond", tmp_path)
    assert manager.registries.models.entry("little-pond").metadata["demo_prompt"] == "what swims here?"


def test_metrics_are_given_by_name(loaded):
    def dcam_register_metrics(register):
        register("area", Area)

    metric = loaded(dcam_register_metrics).registries.metrics.get("Area")()
    metric.update(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, True]]]))
    assert metric.compute() == 0.5


def test_a_measure_that_is_given_the_run_is_a_column_of_evaluations(loaded, tmp_path):
    class Words(ModelMeasure):
        """How many words the answer has, less `fewer`."""

        higher_is_better = False

        def __init__(self, *, fewer=0):
            self.fewer = fewer

        def score(self, sample, maps, explainer):
            return torch.full((len(maps),), len(sample.runs.answer.words) - self.fewer, dtype=torch.float64)

    def dcam_register_metrics(register):
        register("words", Words)

    def dcam_register_datasets(register):
        register("ponds", Ponds)

    manager = loaded(dcam_register_metrics, dcam_register_datasets)
    asked = {"captions": True, "baselines": False, "manager": manager}
    columns = ["words", "words:fewer=2"]
    summary = evaluate(toy_adapter(), "ponds", ["grad-cam"], tmp_path / "out", metrics=columns, **asked)
    assert summary.metrics == {"words": False, "words:fewer=2": False}
    found = summary.methods["grad-cam"]
    assert (found["words"].mean, found["words:fewer=2"].mean) == (3, 1)
    with pytest.raises(ConfigurationError, match="'words' cannot be made with"):
        evaluate(toy_adapter(), "ponds", ["grad-cam"], tmp_path / "no", metrics=["words:more=1"], **asked)


def test_datasets_are_given_by_name(loaded):
    def dcam_register_datasets(register):
        register("ponds", Ponds)

    (sample,) = loaded(dcam_register_datasets).registries.datasets.get("ponds")()
    assert sample.key == "pond"


def test_papers_are_given_by_name(loaded, tmp_path):
    (tmp_path / "pond.yaml").write_text("title: Seen in ponds")

    def dcam_register_papers(register):
        register("pond", tmp_path / "pond.yaml")

    assert loaded(dcam_register_papers).registries.papers.get("Pond") == tmp_path / "pond.yaml"


def test_an_import_string_is_imported_when_somebody_asks(loaded, tmp_path, monkeypatch):
    (tmp_path / "dcam_pond_refiners.py").write_text(
        "from dcam_core import Refiner\n"
        "class Ripple(Refiner):\n"
        "    def forward(self, maps, context):\n"
        "        return maps\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def dcam_register_refiners(register):
        register("ripple", "dcam_pond_refiners:Ripple")

    refiners = loaded(dcam_register_refiners).registries.refiners
    assert "ripple" in refiners
    assert "dcam_pond_refiners" not in sys.modules
    assert refiners.get("ripple").__name__ == "Ripple"
    sys.modules.pop("dcam_pond_refiners")
