"""Ablations, sweeps and layers: which variants they are, that their numbers are right, and what is drawn of them."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from support.toy_things import PROMPTS

from dcam_core.cli.main import main
from dcam_core.errors import UsageError
from dcam_core.evaluation import Ablation, Layers, Sweep, Variant, evaluate
from dcam_core.evaluation.methods import expand, named_methods
from dcam_core.evaluation.plots import ablation_figure, line_figure, rendered
from dcam_core.evaluation.summary import Estimate, Summary
from dcam_core.plugins import PluginManager
from dcam_core.probing.replays import Replays
from dcam_core.testing.toy import toy_adapter

PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")
METRICS = ("energy-pointing-game", "obj-iou")
AKD, DACG, CBA, SICD = (
    "adaptive-kernel-denoising",
    "distribution-aware-confidence-gating",
    "contextual-background-attenuation",
    "single-instance-causal-debiasing",
)


@pytest.fixture(scope="module")
def manager():
    return PluginManager(autoload=False, extra=PLUGINS)


@pytest.fixture
def toy(manager, tmp_path):
    """Evaluate the toy on its things, into a folder."""

    def run(methods, studies, out="out", model=None, **more):
        options = {"metrics": METRICS, "baselines": False, "dataset_parameters": {"root": str(tmp_path)}}
        return evaluate(
            model or toy_adapter(), "toy-things", methods, tmp_path / out, studies=studies, manager=manager,
            **{**options, **more},
        )  # fmt: skip

    return run


@pytest.fixture
def variants(manager):
    """(methods, a study, number of blocks) -> label -> overrides."""

    def made(methods, study, depth=4):
        found = expand(named_methods(methods, manager), [study], depth, manager)
        return {each.label: each.overrides for each in found.variants}

    return made


def rows(folder):
    """(sample, method, positions) -> scores."""
    found = map(json.loads, (folder / "words.jsonl").read_text().splitlines())
    return {(row["sample"], row["method"], tuple(row["positions"])): row["scores"] for row in found}


# -- which variants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "left_out"),
    [
        (
            "refiners",
            {
                f"without {AKD}": {AKD}, f"without {DACG}": {DACG}, f"without {CBA}": {CBA},
                f"without {SICD}": {SICD}, "unrefined": {AKD, DACG, CBA, SICD},
            },
        ),
        (
            "refiners:alone",
            {
                "unrefined": {AKD, DACG, CBA, SICD}, f"only {AKD}": {DACG, CBA, SICD},
                f"only {DACG}": {AKD, CBA, SICD}, f"only {CBA}": {AKD, DACG, SICD}, f"only {SICD}": {AKD, DACG, CBA},
            },
        ),
        (
            "refiners:cumulative",
            {
                "unrefined": {AKD, DACG, CBA, SICD}, f"up to {AKD}": {DACG, CBA, SICD},
                f"up to {DACG}": {CBA, SICD}, f"up to {CBA}": {SICD},
            },
        ),
    ],
)  # fmt: skip
def test_an_ablation_leaves_out_what_its_names_say(variants, plan, left_out):
    found = variants(["diffusion-cam"], Ablation(plan))
    assert found.pop("diffusion-cam") == {}
    assert found == {
        f"diffusion-cam {name}": {"refiners": dict.fromkeys(refiners)} for name, refiners in left_out.items()
    }


def test_what_would_be_the_same_is_one_variant(variants):
    # Without its only refiner, dcam is unrefined; with it alone, it is dcam.
    assert list(variants(["dcam"], Ablation())) == ["dcam", "dcam without guided-upsampling"]
    assert list(variants(["dcam"], Ablation("refiners:alone"))) == ["dcam", "dcam unrefined"]


def test_values_of_a_sweep_are_read_as_settings_are(variants):
    sweep = Sweep.read("probe_layer=0,[1, 2],0.5,attention-norm:-1,null,1e-3")
    assert sweep.values == (0, [1, 2], 0.5, "attention-norm:-1", None, 0.001)
    assert list(variants(["grad-cam"], sweep))[1:4] == [
        "grad-cam probe_layer=0", "grad-cam probe_layer=[1,2]", "grad-cam probe_layer=0.5",
    ]  # fmt: skip


def test_only_methods_that_have_the_refiner_are_swept(variants):
    found = variants(["dcam", "grad-cam"], Sweep("refiners.guided-upsampling.cells", [1, 2]))
    assert found["dcam guided-upsampling.cells=2"] == {"refiners": {"guided-upsampling": {"cells": 2}}}
    assert list(found) == [
        "dcam", "dcam guided-upsampling.cells=1", "dcam guided-upsampling.cells=2", "grad-cam",
    ]  # fmt: skip


def test_layers_are_all_of_the_model_or_those_that_are_named(variants):
    assert [each.get("probe_layer") for each in variants(["grad-cam"], Layers(), 3).values()] == [
        None,
        0,
        1,
        2,
    ]
    found = variants(["grad-cam"], Layers.read("feed-forward-norm"), 2)
    assert list(found)[1:] == [f"grad-cam probe_layer=feed-forward-norm:{block}" for block in range(2)]
    found = variants(["grad-cam"], Layers.read("0.5,-1"))
    assert [each.get("probe_layer") for each in found.values()] == [None, 0.5, -1]


def test_what_a_checkpoint_adds_is_left_out_too(manager, tmp_path):
    (tmp_path / "explain.yaml").write_text("tam: {refiners: {guided-upsampling: {}}}")
    found = expand(named_methods(["tam"], manager), [Ablation("refiners:cumulative")], 1, manager, tmp_path)
    assert [each.label for each in found.variants] == ["tam", "tam unrefined", "tam up to rank-gaussian"]


def test_a_variant_of_a_variant_keeps_its_settings(variants):
    own = Variant("sharp", "dcam", {"mask_step": "commit", "refiners": {"guided-upsampling": {"cells": 2}}})
    found = variants([own, "dcam"], Sweep("refiners.guided-upsampling.pixels", [8]))
    assert found["sharp guided-upsampling.pixels=8"] == {
        "mask_step": "commit", "refiners": {"guided-upsampling": {"cells": 2, "pixels": 8}},
    }  # fmt: skip


# -- numbers -------------------------------------------------------------------------------------------------


def test_variants_score_as_methods_written_out_and_share_their_raw_maps(toy, manager, tmp_path, monkeypatch):
    probed = []
    given = Replays.probed
    monkeypatch.setattr(Replays, "probed", lambda self: probed.append(1) or given(self))
    toy(["diffusion-cam"], [Ablation(), Sweep(f"refiners.{SICD}.peak_weight", [0.5])])
    assert len(probed) == len(PROMPTS)  # once per sample for all seven
    shared = rows(tmp_path / "out")
    preset = yaml.safe_load(Path(manager.registries.methods.get("diffusion-cam")).read_text())
    without = {**preset, "refiners": {**preset["refiners"], AKD: None}}
    heavy = {**preset, "refiners": {**preset["refiners"], SICD: {"peak_weight": 0.5}}}
    written = {f"without {AKD}": without, f"{SICD}.peak_weight=0.5": heavy}
    differ = 0
    for name, method in written.items():
        (tmp_path / "written.yaml").write_text(yaml.safe_dump(method, sort_keys=False))
        toy([str(tmp_path / "written.yaml")], [], out=name.replace(" ", "-"))
        alone = rows(tmp_path / name.replace(" ", "-"))
        for (sample, _, positions), scores in alone.items():
            assert shared[sample, f"diffusion-cam {name}", positions] == scores
            differ += scores != shared[sample, "diffusion-cam", positions]
    assert differ


def test_a_run_with_studies_continues_and_is_shown_without_the_model(toy, tmp_path, monkeypatch):
    studies, options = [Layers()], {"model": "toy", "limit": 2, "metrics": METRICS[:1]}
    whole = toy(["hires-cam", "grad-cam"], studies, **options)
    blocks = len(toy_adapter().blocks)
    assert len(whole.methods) == 2 * (1 + blocks)
    before, plot = rows(tmp_path / "out"), (tmp_path / "out/layers-all.svg").read_bytes()
    ledger = tmp_path / "out/samples.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:1]))
    assert toy(["hires-cam", "grad-cam"], studies, **options).methods == whole.methods
    assert rows(tmp_path / "out") == before
    assert (tmp_path / "out/layers-all.svg").read_bytes() == plot
    monkeypatch.setattr(
        "dcam_core.evaluation.model_source.load_model", lambda *_, **__: pytest.fail("was loaded")
    )
    shown = toy(["grad-cam", "hires-cam"], studies, **options)
    assert list(shown.methods)[: 1 + blocks] == [
        "grad-cam",
        *(f"grad-cam probe_layer={i}" for i in range(blocks)),
    ]
    assert shown.methods == whole.methods
    with pytest.raises(UsageError, match="studies was"):
        toy(["hires-cam", "grad-cam"], [], **options)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--ablate", "refinerz"],
            "no ablation 'refinerz': there are refiners, refiners:alone, refiners:cumulative",
        ),
        (["--methods", "grad-cam", "--ablate", "refiners"], "none of the methods has what it varies"),
        (["--sweep", "mask_step"], "is not KEY=VALUE,VALUE"),
        (["--sweep", "mask_step="], "has no values"),
        (["--sweep", "mask_stepp=1"], "Did you mean 'mask_step'?"),
        (["--sweep", "views=[1"], "cannot be read"),
        (["--sweep", "refiners.guided-upsamplign.cells=1"], "dcam: guided-upsampling, min-max"),
        (
            ["--sweep", "refiners.guided-upsampling.cels=1,2"],
            "refiner 'guided-upsampling' cannot be made with",
        ),
        (["--sweep", "refiners.guided-upsampling=1,2"], "refiners.guided-upsampling is 1"),
        (["--sweep", "attribution.centred=true"], "unknown parameter 'centred': there are"),
        (["--sweep", "sampler.steps=2"], "sets the sampler (steps)"),
        (["--layers", "every"], "no layers 'every': give all, attention-norm, feed-forward-norm"),
        (["--layers", "0,99"], "probe_layer 99 is not a block"),
        (["--layers", "block.7"], "probe_layer 'block.7' is not a module"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_is_wrong_is_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", ",".join(PLUGINS))
    monkeypatch.chdir(tmp_path)
    given = ["--model", "toy", "--dataset", "toy-things:.", "--out", "out", "--methods", "dcam", *arguments]
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *given])
    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


# -- what is drawn -------------------------------------------------------------------------------------------


@pytest.fixture
def summary():
    """Four variants with made-up numbers; of the last, one metric has no score."""

    def estimates(offset):
        means = {"obj-iou": 0.5 + offset, "energy:x=1": 0.2 - offset}
        return {metric: Estimate(mean, mean - 0.05, mean + 0.05, 9, 0) for metric, mean in means.items()}

    methods = {f"m{number}": estimates(0.1 * number) for number in range(4)}
    methods["m3"]["obj-iou"] = Estimate(None, None, None, 0, 9)
    differences = {
        "m1": {"obj-iou": Estimate(0.1, 0.05, 0.15, 9, 0), "energy:x=1": Estimate(-0.1, -0.2, 0.01, 9, 0)},
        "m2": {"obj-iou": Estimate(-0.2, -0.3, -0.1, 9, 0), "energy:x=1": Estimate(-0.2, -0.3, -0.1, 9, 0)},
        "m3": {
            "obj-iou": Estimate(None, None, None, 0, 9),
            "energy:x=1": Estimate(-3e-4, -4e-4, -2e-4, 9, 0),
        },
    }
    return Summary(
        "model", "set", {"obj-iou": True, "energy:x=1": False}, methods, differences, 3, 3, 9, {}, 0, {}
    )


def test_a_line_goes_through_the_means_and_its_band_through_the_ends(summary):
    figure = line_figure(summary, {"m0": {"m1": 1, "m2": 64, "m3": 8}}, "cells")
    first, second = figure.axes
    line, own = first.lines
    assert line.get_xydata()[[0, 2]].tolist() == [[1, pytest.approx(0.6)], [64, pytest.approx(0.7)]]
    assert np.isnan(line.get_ydata()[1])
    assert own.get_ydata() == [0.5, 0.5]
    (band,) = second.collections
    ends = band.get_paths()[0].get_extents()
    assert (ends.x0, ends.x1, ends.y0, ends.y1) == pytest.approx((1, 64, -0.15, 0.15))
    assert first.get_xscale() == "log"
    assert second.get_title(loc="left") == "energy\nx=1\nlower is better"


def test_values_that_are_no_numbers_stand_side_by_side(summary):
    axes = line_figure(summary, {"m0": {"m1": "infill", "m2": "commit"}}, "mask_step").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0, 1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["infill", "commit"]


def test_an_ablation_says_what_is_better_and_what_is_worse(summary):
    shown = {"m0": "m", "m1": "without a", "m2": "without b", "m3": "without c"}
    first, second = ablation_figure(summary, "m0", shown, "title").axes
    assert [tick.get_text() for tick in first.get_yticklabels()] == list(shown.values())
    marks = {axes: [line.get_marker() for line in axes.lines[1:]] for axes in (first, second)}
    assert marks[first] == ["o", "^", "v", "o"]
    assert marks[second] == ["o", "o", "^", "o"]  # lower is better there
    assert [text.get_text() for text in first.texts] == ["+0.100", "\N{MINUS SIGN}0.200"]
    assert second.texts[-1].get_text() == "0.000"


def test_files_of_figures_can_be_read_and_are_the_same_every_time(summary):
    made = [line_figure(summary, {"m0": {"m1": 1, "m2": 2}}, "x") for _ in range(2)]
    first, second = (rendered(figure, "svg") for figure in made)
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    width, height = Image.open(io.BytesIO(rendered(made[0], "png"))).size
    assert (width, height) == tuple(round(200 * side) for side in made[0].get_size_inches())


def test_every_study_is_drawn_and_stands_in_the_summary(toy, tmp_path):
    studies = [
        Ablation("refiners:alone"),
        Sweep("mask_step", ["infill"]),
        Sweep("mask_step", ["commit"]),
        Layers(),
    ]
    toy([Variant("as published", "diffusion-cam"), "grad-cam"], studies, limit=2, metrics=METRICS[:1])
    stems = ["ablate-refiners-alone-as-published", "sweep-mask_step", "sweep-mask_step-2", "layers-all"]
    page = (tmp_path / "out/summary.md").read_text()
    for stem in stems:
        assert f"({stem}.svg)" in page
        assert (tmp_path / f"out/{stem}.png").is_file()
    assert len(list((tmp_path / "out").glob("*.svg"))) == len(stems)
