"""`dcam evaluate` on the toy: numbers as by hand, what is left out and why, what is refused."""

import json
import shutil
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from support.dataset_folders import coco
from support.toy_things import PROMPTS, things

from dcam_core import Explainer
from dcam_core.cli.main import main
from dcam_core.dataset import LeftOut, SampleObject
from dcam_core.errors import ConfigurationError, UsageError
from dcam_core.evaluation import CEILING, Sweep, evaluate, latex, markdown, named_words
from dcam_core.evaluation.named_words import NO_MASK, NOT_ANNOTATED, NOT_SHOWN, PART_OF_A_NAME
from dcam_core.matching import NameMatcher
from dcam_core.plugins import PluginManager
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import SPECIAL, WORDS, toy_adapter, toy_picture, toy_tokenizer

METHODS = ("grad-cam", "hires-cam")
METRICS = ("energy-pointing-game", "pointing-game", "pointing-game:tolerance=half-cell", "obj-iou")
PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")


@pytest.fixture
def manager():
    return PluginManager(autoload=False, extra=PLUGINS)


@pytest.fixture
def toy(manager, tmp_path):
    """Evaluate the toy on its things, into a folder."""

    def run(out="out", methods=METHODS, model=None, **more):
        options = {"metrics": METRICS, "dataset_parameters": {"root": str(tmp_path)}, "manager": manager}
        return evaluate(model or toy_adapter(), "toy-things", methods, tmp_path / out, **{**options, **more})

    return run


@pytest.fixture
def dcam(capsys, monkeypatch, tmp_path):
    """Run the command line; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", ",".join(PLUGINS))
    monkeypatch.delenv("DCAM_STRICT_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- which words are scored ----------------------------------------------------------------------------------


def test_a_name_counts_once_at_its_last_word_and_every_other_word_has_a_reason():
    text = "a red circle , left of a blue moon and the square"
    ids = [WORDS.index(word) + len(SPECIAL) for word in text.split()]
    answer = read_answer(torch.tensor(ids), toy_tokenizer())
    masks = torch.eye(3, dtype=torch.bool)[:, None]
    objects = [
        SampleObject(("red circle", "circle"), masks[0]),
        SampleObject(("square",), masks[1]),
        SampleObject(("square",), masks[2]),
    ]
    named, unscored = named_words(answer, objects, NameMatcher([("moon",)]))
    assert [(word.target.word, word.mask.tolist()) for word in named] == [
        ("circle", [[True, False, False]]),
        ("square", [[False, True, True]]),
    ]
    assert {word.word: word.why for word in unscored} == {
        "a": NOT_ANNOTATED, "red": PART_OF_A_NAME, "left": NOT_ANNOTATED, "of": NOT_ANNOTATED,
        "blue": NOT_ANNOTATED, "moon": NOT_SHOWN, "and": NOT_ANNOTATED, "the": NOT_ANNOTATED,
    }  # fmt: skip
    broken = [LeftOut("annotation 7", "its mask is empty", words=("moon",))]
    _, unscored = named_words(answer, objects, NameMatcher([("moon",)]), broken)
    assert {word.word: word.why for word in unscored}["moon"] == NO_MASK


# -- numbers -------------------------------------------------------------------------------------------------


def test_every_number_is_what_scoring_by_hand_gives(toy, tmp_path):
    summary = toy()
    model = toy_adapter()
    masks = {thing.words[0]: thing.mask for thing in things()}
    expected = {}
    for index, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            inputs = model.prepare(toy_picture(), prompt)
            trajectory = model.denoise(inputs, model.default_sampler)
        answer = read_answer(trajectory.answer_ids, model.tokenizer)
        for method in METHODS:
            for word in (word for word in answer.words if word.text in masks):
                target = select_targets(answer, [word.positions[0]])
                run = Explainer(model, method).explain_run(inputs, trajectory, answer, target)
                heat = F.interpolate(run.maps[None], (36, 48), mode="bilinear")[0, 0].double()
                mask = masks[word.text]
                row, column = divmod(int(heat.argmax()), 48)
                near = mask[max(0, row - 6) : row + 7, max(0, column - 6) : column + 7]
                expected[f"things-{index}", method, word.positions] = (
                    float(heat[mask].sum() / heat.sum()) if heat.any() else 0.0,
                    float(mask[row, column]) if heat.any() else 0.0,
                    float(near.any()) if heat.any() else 0.0,  # a token is 12 x 12 pixels
                )
    rows = [row for row in lines(tmp_path / "out/words.jsonl") if row["method"] in METHODS]
    found = {
        (row["sample"], row["method"], tuple(row["positions"])): tuple(
            row["scores"][metric] for metric in METRICS[:3]
        )
        for row in rows
    }
    assert found.keys() == expected.keys()
    assert len(found) >= 20
    # Words are explained together there and alone here: a batch rounds otherwise, and stretching enlarges it.
    for key, scores in expected.items():
        assert found[key] == pytest.approx(scores, abs=2e-3), key
    for method in METHODS:
        values = [scores[0] for (_, own, _), scores in expected.items() if own == method]
        estimate = summary.methods[method]["energy-pointing-game"]
        assert estimate.mean == pytest.approx(sum(values) / len(values), abs=2e-3)
        assert estimate.low < estimate.mean < estimate.high
        assert estimate.words == summary.words == len(values)
    one, two = (summary.methods[method]["obj-iou"].mean for method in METHODS)
    assert summary.differences[METHODS[1]]["obj-iou"].mean == pytest.approx(two - one)


def test_the_tables_hold_all_methods_and_the_baselines(toy, tmp_path):
    summary = toy()
    assert list(summary.methods) == [*METHODS, "centre-prior", "random-map", CEILING]
    assert set(summary.metrics) == set(METRICS)
    ceiling = summary.methods[CEILING]["obj-iou"].mean
    assert ceiling > 1.5 * summary.methods["random-map"]["obj-iou"].mean
    kept = json.loads((tmp_path / "out/summary.json").read_text())
    assert kept == json.loads(json.dumps(summary.as_dict()))
    page = (tmp_path / "out/summary.md").read_text()
    table = latex(summary)
    assert page == markdown(summary) + "\n"
    for method in METHODS:
        mean = f"{summary.methods[method]['obj-iou'].mean:.3f}"
        assert any(method in line and mean in line for line in page.splitlines())
        assert any(method in line and mean in line for line in table.splitlines())
    assert list(toy("bare", baselines=False).methods) == list(METHODS)


def test_without_a_wish_the_metrics_meant_for_tables_are_taken(toy, manager):
    found = toy(metrics=None, limit=1).metrics
    assert found["pointing-game:tolerance=half-cell"] is True
    assert {label.partition(":")[0] for label in found} == {
        entry.name for entry in manager.registries.metrics if entry.metadata.get("columns")
    }


def test_what_is_not_scored_is_kept_with_the_reason(toy, tmp_path):
    summary = toy()
    samples = lines(tmp_path / "out/samples.jsonl")
    counted = Counter(word["why"] for sample in samples for word in sample["unscored"])
    assert counted == Counter(summary.unscored)
    own = [row for row in lines(tmp_path / "out/words.jsonl") if row["method"] == "grad-cam"]
    words = [word for sample in samples for word in sample["answer"].split() if word != ","]
    assert len(own) + counted.total() == len(words)


def test_the_model_is_left_as_it_was(toy):
    model = toy_adapter()
    model.model.blocks[0].train()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    modes = [module.training for module in model.model.modules()]
    state = torch.get_rng_state()
    toy(model=model, limit=1)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert [module.training for module in model.model.modules()] == modes
    assert all(each.requires_grad and each.grad is None for each in model.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# -- samples that cannot be read -----------------------------------------------------------------------------


def test_a_broken_picture_is_skipped_and_counted(toy, tmp_path):
    whole = toy("whole")
    (tmp_path / "picture-1.png").write_bytes(b"no picture")
    summary = toy("broken")
    (skipped,) = lines(tmp_path / "broken/skipped.jsonl")
    assert skipped["index"] == 1
    assert "picture-1.png" in skipped["why"]
    assert (summary.skipped, summary.samples, whole.samples) == (1, len(PROMPTS) - 1, len(PROMPTS))
    assert "skipped: 1 sample" in (tmp_path / "broken/summary.md").read_text()
    others = [row for row in lines(tmp_path / "whole/words.jsonl") if row["sample"] != "things-1"]
    assert scores_of(lines(tmp_path / "broken/words.jsonl")) == scores_of(others)


def scores_of(rows):
    return [(row["sample"], row["method"], row["positions"], row["scores"]) for row in rows]


def test_a_real_folder_whose_words_name_nothing(dcam, tmp_path):
    coco(tmp_path / "coco")
    (tmp_path / "coco/val2017/000000000042.jpg").write_bytes(b"broken")
    code, out, err = dcam(
        "--model", "toy", "--dataset", f"coco:{tmp_path / 'coco'}", "--split", "val2017",
        "--methods", "grad-cam", "--prompt", "the blue moon", "--out", "out",
    )  # fmt: skip
    assert code == 0, err
    assert "0 words in 0 of 1 pictures" in out
    assert "skipped: 1 sample" in out


def test_any_other_error_stops_the_run_and_nothing_is_lost(toy, tmp_path, monkeypatch):
    whole = toy("whole")
    from support.toy_things import ToyThings

    given = ToyThings.__getitem__

    def failing(self, index):
        if index == 2:
            raise ZeroDivisionError("the disk is on fire")
        return given(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ToyThings, "__getitem__", failing)
        with pytest.raises(ZeroDivisionError, match="on fire"):
            toy("stopped")
    assert len(lines(tmp_path / "stopped/samples.jsonl")) == 2
    assert toy("stopped").methods == whole.methods


# -- what is refused -----------------------------------------------------------------------------------------

GOOD = {"--model": "toy", "--dataset": "toy-things:.", "--methods": "grad-cam", "--out": "out"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "toyy"}, "toyy"),
        ({"--dataset": "scenez"}, "unknown dataset 'scenez'"),
        ({"--dataset": "toy-things"}, "root"),
        ({"--dataset-option": "colour=red"}, "colour"),
        ({"--dataset-option": "colour"}, "is not KEY=VALUE"),
        ({"--dataset-option": "root=x"}, "given twice"),
        ({"--methods": "grad-camm"}, "Did you mean 'grad-cam'?"),
        ({"--methods": "grad-cam,grad-cam"}, "two methods are called 'grad-cam'"),
        ({"--methods": ","}, "no method is named"),
        ({"--methods": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"--methods": "sampling.yaml"}, "sets the sampler (steps)"),
        ({"--metrics": "pointing-gam"}, "Did you mean 'pointing-game'?"),
        ({"--metrics": "pointing-game:tolerence=3"}, "tolerence"),
        ({"--metrics": ","}, "no metric"),
        ({"--limit": "0"}, "--limit"),
        ({"--out": "sampling.yaml"}, "is a file"),
        ({"--out": "."}, "holds no evaluation"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(dcam, tmp_path, change, message):
    (tmp_path / "sampling.yaml").write_text("attribution: {name: grad-cam}\nsampler: {steps: 2}\n")
    arguments = [part for pair in {**GOOD, **change}.items() for part in pair]
    code, out, err = dcam(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused_with_what_differs(toy, tmp_path):
    toy(limit=2)
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match=r"limit was 2, is 3.*another folder"):
        toy(limit=3)
    with pytest.raises(UsageError, match=r"methods\.hires-cam is missing now; methods\.layer-cam is new"):
        toy(limit=2, methods=["grad-cam", "layer-cam"])
    with pytest.raises(UsageError, match=r"metrics was .*; seed was 0, is 1;"):
        toy(limit=2, seed=1, metrics=["obj-iou"])
    with pytest.raises(ConfigurationError, match="limit is 0"):
        toy("other", limit=0)
    assert contents(tmp_path / "out") == before


def test_another_model_is_noticed_when_a_run_is_continued(toy, tmp_path):
    toy(limit=2)
    ledger = tmp_path / "out/samples.jsonl"
    ledger.write_text(ledger.read_text().splitlines()[0] + "\n")
    other = toy_adapter()
    other.model.double()
    with pytest.raises(UsageError, match="dtype was 'float32', is 'float64'"):
        toy(limit=2, model=other)


def test_data_that_have_changed_since_are_noticed(toy, tmp_path):
    toy(limit=2)
    ledger = tmp_path / "out/samples.jsonl"
    ledger.write_text(ledger.read_text().splitlines()[0].replace('"things-0"', '"things-7"') + "\n")
    with pytest.raises(UsageError, match=r"sample 0 of the dataset was 'things-7' .* is 'things-0' now"):
        toy(limit=2)


def test_a_call_of_which_nothing_came_does_not_claim_the_folder(toy, tmp_path):
    with pytest.raises(ConfigurationError, match="infil"):
        toy(limit=1, studies=[Sweep("mask_step", ("infil", "commit"))])
    assert toy(limit=1, studies=[Sweep("mask_step", ("infill", "commit"))]).words
    assert not (tmp_path / "out/.writing").exists()


def test_what_the_data_could_not_give_is_counted_by_its_reason(toy, tmp_path):
    summary = toy("out", limit=2, dataset_parameters={"root": ".", "broken": 2})
    assert summary.left_out == {"its mask is empty": 2, "it is missing": 1}
    assert "left out of the data: 2 (its mask is empty)" in (tmp_path / "out/summary.md").read_text()


def test_a_finished_run_is_shown_without_the_model(dcam, tmp_path, monkeypatch):
    arguments = [part for pair in GOOD.items() for part in pair]
    code, first, _ = dcam(*arguments)
    assert code == 0
    assert "grad-cam" in first

    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("dcam_core.evaluation.model_source.load_model", refuse)
    assert dcam(*arguments)[:2] == (0, first)
    shutil.rmtree(tmp_path / "out")
    assert dcam(*arguments)[0] == 1  # the patch is where a model is loaded


def test_a_finished_run_can_be_compared_with_another_of_its_methods(toy):
    one, other = toy(), toy(methods=METHODS[::-1])
    assert list(other.methods)[:2] == list(METHODS[::-1])
    assert one.methods == other.methods
    forth, back = one.differences[METHODS[1]]["obj-iou"], other.differences[METHODS[0]]["obj-iou"]
    assert (back.mean, back.low) == (pytest.approx(-forth.mean), pytest.approx(-forth.high))
