"""Published tables: what the shipped one says, how figures are made, what is compared and what is refused."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dcam_core.cli.main import main
from dcam_core.dataset import SampleObject
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation import evaluate
from dcam_core.evaluation.against import class_masks
from dcam_core.evaluation.measures import measures
from dcam_core.hookspecs import hookimpl
from dcam_core.plugins import PluginManager
from dcam_core.published import markdown, published, read_paper, reproduce
from dcam_core.published.comparing import contradictions, why_not_comparable
from dcam_core.published.figures import figures
from dcam_core.published.paper import Column
from dcam_core.published.reproducing import _method
from dcam_core.testing.toy import toy_adapter
from dcam_plugins.metrics import F3OfMeans, released_scores

PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")

POND = """
title: Seen in ponds
source: a test
model: {title: the toy, family: toy, parameters: [1, 1.0e+6], sampler: {steps: 7}}
datasets:
  things: {title: Things, readers: {toy-things: {split: all}}, pictures: 4, remarks: [the pond was muddy]}
columns:
  iou: {title: IoU, unit: "%", factor: 100}
  energy: {title: Energy, decimals: 3}
  both: {title: Both, harmonic_mean_of: {iou: 1, energy: 0.5}, decimals: 3}
readings:
  plain: {title: as described, metrics: {iou: obj-iou, energy: energy-pointing-game}}
  oracle: {title: as released, metrics: {iou: "obj-iou:against=best-class", energy: energy-pointing-game}}
variants:
  bare: {method: hires-cam, settings: {attribution: {centre: true}}}
tables:
  - title: Frogs
    dataset: things
    compared_with: Old
    rows:
      Old: {published: {iou: 10.0, energy: 0.1, both: 0.133}, methods: {plain: grad-cam}, missing: {oracle: lost}}
      New: {published: {iou: 20.0, energy: 0.2}, methods: {plain: bare, oracle: bare}}
"""


@pytest.fixture
def pond(tmp_path):
    path = tmp_path / "pond-paper.yaml"
    path.write_text(POND)
    return path


@pytest.fixture
def manager():
    return PluginManager(autoload=False, extra=PLUGINS)


@pytest.fixture
def shipped(manager):
    return read_paper(manager.registries.papers.get("diffusion-cam"))


@pytest.fixture
def dcam(capsys, monkeypatch, tmp_path, pond):
    """Run the command line with a plugin that offers the pond's tables; gives (exit code, stdout, stderr)."""
    plugin = SimpleNamespace(
        dcam_register_papers=hookimpl(
            lambda register: register("pond", pond), specname="dcam_register_papers"
        )
    )
    monkeypatch.setitem(sys.modules, "test_published_plugin", SimpleNamespace(plugin=plugin))
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", ",".join((*PLUGINS, "test_published_plugin:plugin")))
    monkeypatch.delenv("DCAM_STRICT_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["reproduce", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


# -- the shipped tables --------------------------------------------------------------------------------------


def test_twelve_of_the_fourteen_published_f3_are_those_of_their_columns(shipped):
    rows = [row for table in shipped.tables for row in table.rows.values()]
    assert len(rows) == 14
    found = list(contradictions(shipped))
    assert [each for each in found if "its columns" in each] == [
        "Comparison on GranDf, Diffusion-CAM: F3 is printed as 20.53, and its columns give 20.54 to 20.61",
        "Ablation on COCO Caption, + AKD: F3 is printed as 20.16, and its columns give 20.09 to 20.14",
    ]
    (twice,) = (each for each in found if "one method" in each)
    assert twice.endswith("Concentration is printed as 51.41 and 51.44")


def test_what_stands_for_the_rows_and_columns_can_be_made(shipped, manager):
    for table in shipped.tables:
        for name, row in table.rows.items():
            assert {*row.methods, *row.missing} == set(shipped.readings), name
            for method in row.methods.values():
                variant = _method(shipped, method)
                if isinstance(variant, str):
                    assert variant in manager.registries.methods
                else:
                    assert variant.method(manager).description
    for reading in shipped.readings.values():
        assert len(measures(manager.registries.metrics, list(reading.metrics.values()))) == 3


def test_the_ablation_leaves_out_what_the_paper_and_what_the_release_left_out(shipped, manager):
    (table,) = (table for table in shipped.tables if table.compared_with == "Baseline")
    short = {
        "adaptive-kernel-denoising": "AKD", "distribution-aware-confidence-gating": "DACG", "min-max": "",
        "contextual-background-attenuation": "CBA", "single-instance-causal-debiasing": "SICD",
    }  # fmt: skip
    applied = {}
    for name, row in table.rows.items():
        for reading, method in row.methods.items():
            variant = _method(shipped, method)
            if not isinstance(variant, str):
                refiners = variant.method(manager).refiners
                applied[reading, name] = [short[key] for key, value in refiners.items() if value is not None]
    assert applied == {
        ("intended", "Baseline"): [], ("released", "Baseline"): [],
        ("intended", "+ AKD"): ["AKD", ""], ("released", "+ AKD"): ["AKD", "", "SICD"],
        ("intended", "+ DACG"): ["DACG", ""], ("released", "+ DACG"): ["DACG", "", "SICD"],
        ("intended", "+ CBA"): ["CBA", ""], ("released", "+ CBA"): ["CBA", "", "SICD"],
        ("intended", "+ SICD"): ["", "SICD"],
    }  # fmt: skip


def test_the_released_columns_are_those_of_the_release(shipped, manager):
    maps = torch.rand(6, 24, 24, dtype=torch.float64)
    labels = torch.zeros(24, 24, dtype=torch.int64)
    labels[2:9, 3:12], labels[12:20, 10:22], labels[15:18, 2:6] = 1, 2, 1  # class 1 in two pieces
    pieces = [("dog",), ("dog",), ("cat",)]
    masks = [labels == 1, labels == 1, labels == 2]
    masks[0] = masks[0] & (torch.arange(24)[:, None] < 10)
    masks[1] = masks[1] & (torch.arange(24)[:, None] >= 10)
    classes = class_masks([SampleObject(words, mask) for words, mask in zip(pieces, masks, strict=True)])
    assert classes.tolist() == torch.stack([labels == 1, labels == 2]).tolist()
    expected = released_scores(maps, labels.expand(6, -1, -1))
    names = {"obj-iou": "obj_iou", "contrast": "contrast_ratio", "concentration": "concentration"}
    for column, label in shipped.readings["released"].metrics.items():
        (measure,) = measures(manager.registries.metrics, [label])
        found = measure.score(maps, (labels == 1).expand(6, -1, -1), classes, 1)
        assert found.tolist() == pytest.approx(expected[names[column]].tolist(), rel=1e-6), column


def test_an_unknown_comparison_is_refused(manager):
    with pytest.raises(ConfigurationError, match="against is 'everything': it is one of word, all-objects"):
        measures(manager.registries.metrics, ["obj-iou:against=everything"])


# -- figures -------------------------------------------------------------------------------------------------


def row(sample, method, **scores):
    return {"sample": sample, "method": method, "scores": scores}


def test_a_column_of_means_is_what_the_metric_gives_and_changes_are_its_differences(shipped):
    maps = torch.rand(8, 12, 12, dtype=torch.float64)
    masks = torch.zeros(8, 12, 12, dtype=torch.bool)
    masks[:, 3:8, 2:7] = True
    manager = PluginManager(autoload=False, extra=PLUGINS[:1])
    reading = shipped.readings["intended"].metrics
    rows = []
    for method, power in (("flat", 1), ("sharp", 4)):
        columns = {
            label: measure.score(maps**power, masks, masks[:1], 1).tolist()
            for label, measure in zip(
                reading.values(), measures(manager.registries.metrics, list(reading.values())), strict=True
            )
        }
        rows += [
            row(f"{i // 2}", method, **{label: values[i] for label, values in columns.items()})
            for i in range(8)
        ]
    found = figures(rows, ["flat", "sharp"], shipped.columns, reading, compared_with="flat")
    for method, power in (("flat", 1), ("sharp", 4)):
        f3 = F3OfMeans()
        f3.update(maps**power, masks)
        estimate = found.values[method]["f3"]
        assert estimate.mean == pytest.approx(100 * float(f3.compute()))
        assert estimate.low < estimate.mean < estimate.high
        assert (estimate.words, estimate.unscored) == (8, 0)
    for column in shipped.columns:
        apart = found.values["sharp"][column].mean - found.values["flat"][column].mean
        assert found.changes["sharp"][column].mean == pytest.approx(apart)
        assert (found.changes["flat"][column].low, found.changes["flat"][column].high) == (0, 0)


def test_words_without_a_score_are_left_out_and_counted():
    columns = {"a": Column("A"), "h": Column("H", harmonic_mean_of={"a": 1.0})}
    rows = [row("1", "m", x=0.5), row("1", "m", x=None), row("2", "m", x=0.25)]
    found = figures(rows, ["m"], columns, {"a": "x"}).values["m"]
    assert (found["a"].mean, found["a"].words, found["a"].unscored) == (0.375, 2, 1)
    assert found["h"].mean == found["a"].mean  # the harmonic mean of one number
    nothing = figures([], ["m"], columns, {"a": "x"}).values["m"]["h"]
    assert (nothing.mean, nothing.low, nothing.words) == (None, None, 0)


# -- what is compared ----------------------------------------------------------------------------------------


def test_tables_of_another_paper_stand_beside_what_is_found(dcam, pond, manager, tmp_path):
    """The toy is what the pond's tables were measured on, so nothing speaks against comparing."""
    code, out, err = dcam(
        "pond", "--model", "toy", "--dataset", f"toy-things:{tmp_path}", "--also", "layer-cam", "-o", "r"
    )
    assert code == 0, err
    assert "difference to published" in out
    page = (tmp_path / "r/reproduction.md").read_text()
    assert "Nothing is known that speaks against comparing" in page
    assert "the published answers were written with steps=7; these with steps=None" in page
    kept = json.loads((tmp_path / "r/reproduction.json").read_text())
    summary = evaluate(
        toy_adapter(), "toy-things", ["grad-cam"], tmp_path / "by-itself", baselines=False, manager=manager,
        dataset_parameters={"root": str(tmp_path), "split": "all"}, metrics=["obj-iou", "energy-pointing-game"],
    )  # fmt: skip
    old, new, also, *bounds = kept["tables"][0]["rows"]
    assert [each["name"] for each in (old, new, also)] == ["Old", "New", "layer-cam"]
    assert [each["name"] for each in bounds] == ["centre-prior", "random-map", "mask-on-token-grid"]
    means = {key: value.mean for key, value in summary.methods["grad-cam"].items()}
    assert old["found"]["plain"]["iou"]["mean"] == pytest.approx(100 * means["obj-iou"])
    assert old["found"]["plain"]["energy"]["mean"] == pytest.approx(means["energy-pointing-game"])
    assert set(old["found"]) == {"plain"}
    assert set(new["found"]) == {"plain", "oracle"}
    assert new["found"]["oracle"]["iou"]["mean"] >= new["found"]["plain"]["iou"]["mean"]
    assert new["changes"].keys() == {"plain"}, "there is nothing to compare the oracle with"
    apart = 100 * means["obj-iou"] - 10.0
    (line,) = (
        line for line in page.splitlines() if "difference to published" in line and f"{apart:+.2f}" in line
    )
    assert "| New | published | +10.00 | +0.100 | - |" in page, line
    assert "Old, as released: lost" in page
    assert "the pond was muddy" in page


def test_a_finished_reproduction_is_shown_without_the_model(dcam, tmp_path, monkeypatch):
    arguments = ["pond", "--model", "toy", "--dataset", f"toy-things:{tmp_path}", "--limit", "1", "-o", "r"]
    code, first, err = dcam(*arguments)
    assert code == 0, err

    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("dcam_core.evaluation.model_source.load_model", refuse)
    assert dcam(*arguments)[:2] == (0, first)


def test_a_model_is_loaded_once_for_all_data(tmp_path, pond, manager, monkeypatch):
    text = OmegaConf.to_container(OmegaConf.load(pond))
    text["datasets"]["more"] = {"title": "More", "readers": {"scenes": {"split": "test", "length": 1}}}
    text["tables"].append({**text["tables"][0], "dataset": "more", "title": "Toads"})
    OmegaConf.save(OmegaConf.create(text), pond)
    loaded = []
    monkeypatch.setattr(
        "dcam_core.evaluation.model_source.load_model",
        lambda *_, **__: loaded.append(1) or toy_adapter(),
    )
    found = reproduce(
        read_paper(pond), "toy", {"toy-things": {"root": str(tmp_path)}, "scenes": {}}, tmp_path / "r",
        limit=1, manager=manager,
    )  # fmt: skip
    assert loaded == [1]
    frogs, toads = found.tables
    assert (frogs.measured.dataset, toads.measured.dataset) == ("toy-things", "scenes")
    assert not toads.measured.words  # the toy does not know such prompts
    assert any("nothing could be measured" in remark for remark in toads.remarks)
    assert toads.rows[0].found["plain"]["both"].mean is None
    assert "nan" not in markdown(found)


FACTS = {
    "model": {"name": "m", "family": "toy", "parameters": 1000},
    "sampler": {}, "samples_in_the_dataset": 3, "left_out_of_the_dataset": {"its mask is empty": 1},
}  # fmt: skip
REQUEST = {"dataset": {"name": "toy-things", "split": "all", "root": "somewhere"}}


@pytest.mark.parametrize(
    ("request_changes", "facts_changes", "reasons"),
    [
        ({}, {}, []),
        ({"split": "few"}, {}, ["split is 'few', the published figures are of 'all'"]),
        ({}, {"samples_in_the_dataset": 2}, ["the folder holds 2 pictures, Things has 4"]),
        (
            {},
            {"model": {"name": "m", "family": "other", "parameters": 1000}},
            ["m is not the toy, it is of the family other"],
        ),
        (
            {},
            {"model": {"name": "m", "family": "toy", "parameters": 5e6}},
            ["m is not the toy, it has 5 million parameters"],
        ),
    ],
)
def test_why_figures_cannot_be_compared_is_said(pond, request_changes, facts_changes, reasons):
    request = {"dataset": {**REQUEST["dataset"], **request_changes}}
    assert why_not_comparable(read_paper(pond), "things", request, {**FACTS, **facts_changes}) == reasons


def test_without_model_and_data_the_published_figures_are_shown(dcam, shipped):
    code, out, _ = dcam()
    assert code == 0
    for table in shipped.tables:
        for figure in (value for each in table.rows.values() for value in each.published.values()):
            assert f" {figure:.2f} " in out
    assert "--dataset grandf:FOLDER" in out
    assert all(table.measured is None for table in published(shipped).tables)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ponds"], 2, "unknown paper 'ponds': there are diffusion-cam, pond"),
        (["pond", "--model", "toy"], 2, "--dataset, --out is missing"),
        (["pond", "-o", "r"], 2, "--model, --dataset is missing"),
        (["pond", "--dataset", "toy-things"], 2, "'toy-things' is not NAME:FOLDER"),
        (["pond", "--dataset", "coco:x", "--model", "toy", "-o", "r"], 2, "there are toy-things for Things"),
        (
            ["pond", "--dataset", "toy-things:.", "--dataset-option", "coco.split=a"],
            2,
            "with a dataset that is given: toy-things",
        ),
    ],
)
def test_wrong_calls_are_refused_in_one_line(dcam, arguments, code, says):
    found, out, err = dcam(*arguments)
    assert (found, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title: Frogs", "name: Frogs", "name"),
        ("dataset: things", "dataset: thongs", r"tables\[0\].dataset names 'thongs': there are things"),
        ("compared_with: Old", "compared_with: Odd", "compared_with names 'Odd': there are New, Old"),
        ("{iou: 20.0", "{oui: 20.0", "rows.New.published names 'oui': there are both, energy, iou"),
        ("{oracle: lost}", "{orakel: lost}", "names 'orakel': there are oracle, plain"),
        ("harmonic_mean_of: {iou: 1,", "harmonic_mean_of: {both: 1,", "harmonic_mean_of names 'both'"),
        (
            "metrics: {iou: obj-iou,",
            "metrics: {",
            "readings.plain.metrics names no metric for the column 'iou'",
        ),
        ("iou: 10.0", "iou: ten", "ten"),
        ("title: Seen in ponds", "", "title"),
    ],
)
def test_a_file_that_holds_no_tables_is_refused(pond, old, new, says):
    assert old in POND
    pond.write_text(POND.replace(old, new))
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_paper(pond)
    assert "pond-paper.yaml" in str(caught.value)


def test_the_documented_example_holds_tables(tmp_path):
    page = (Path(__file__).parents[2] / "docs/reproducing.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    assert list(read_paper(tmp_path / "mine.yaml").tables[0].rows) == [
        "Grad-CAM",
        "Mine",
        "Mine, bare",
        "Theirs",
    ]


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_paper(Path("nowhere.yaml"))


def test_resampled_figures_do_not_depend_on_the_other_methods(shipped):
    rows = [row(str(i % 3), method, x=float(i + k)) for k, method in enumerate("ab") for i in range(5)]
    columns = {"x": Column("X")}
    alone = figures(rows, ["a"], columns, {"x": "x"}).values["a"]["x"]
    assert alone == figures(rows, ["b", "a"], columns, {"x": "x"}).values["a"]["x"]
    assert np.isfinite([alone.low, alone.high]).all()
