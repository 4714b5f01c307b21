"""Columns that ask the model, captions as answers, grounded words, reliance: against the public functions."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_core import Explainer
from dcam_core.cli.main import main
from dcam_core.dataset import Sample, SampleObject
from dcam_core.denoising.given import given_trajectory
from dcam_core.errors import ConfigurationError, UnknownNameError, UsageError
from dcam_core.evaluation import CEILING, SampleEvaluator, evaluate, markdown
from dcam_core.evaluation.asked_sample import AskedSample
from dcam_core.evaluation.measures import columns, measures
from dcam_core.evaluation.model_measures import likeness
from dcam_core.evaluation.named_words import NOT_ANNOTATED, NOT_GROUNDED, NOT_SHOWN
from dcam_core.evaluation.reliance import separation
from dcam_core.evaluation.scoring import SampleScorer
from dcam_core.evaluation.sharing import SharedRuns
from dcam_core.faithfulness import (
    AskedWords,
    deletion_insertion,
    drop_and_increase,
    mean_coloured,
    modules_from_the_top,
    noise_stability,
    other_labels,
    parameter_randomisation,
    road,
    spearman,
)
from dcam_core.matching import NameMatcher
from dcam_core.plugins import PluginManager
from dcam_core.probing.baseline_pictures import BASELINES
from dcam_core.probing.replays import Replays
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture
from dcam_plugins.metrics import FunctionWord, Noun, word_scores

PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")
CAPTION = "the red circle and a blue moon"
FED_ALIKE = (
    "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "element-wise-grad-cam", "grad-times-input",
)  # fmt: skip
CHEAP = ("insertion-deletion:intervals=2",)


@pytest.fixture(scope="module")
def manager():
    return PluginManager(autoload=False, extra=PLUGINS)


@pytest.fixture(scope="module")
def model():
    """The toy, looking at the picture harder: some of its words are grounded, and some are not."""
    adapter = toy_adapter(1)
    with torch.no_grad():
        adapter.model.patch.weight.mul_(20)
        adapter.model.head.weight.mul_(5)
        for block in adapter.model.blocks:
            block.attention.in_proj_weight.mul_(3)
            block.attention.out_proj.weight.mul_(10)
    return adapter


@pytest.fixture(scope="module")
def unsure():
    """The toy, looking at the picture a little: no probability is near 0 or 1."""
    adapter = toy_adapter(1)
    with torch.no_grad():
        adapter.model.patch.weight.mul_(20)
        adapter.model.head.weight.mul_(0.1)
        for block in adapter.model.blocks:
            block.attention.out_proj.weight.mul_(4)
    return adapter


@pytest.fixture(scope="module")
def run(unsure):
    """The caption as the model's answer, and some of its words; one has two tokens."""
    inputs = unsure.prepare(toy_picture(), "the blue moon")
    trajectory = given_trajectory(unsure, CAPTION, unsure.default_sampler)
    answer = read_answer(trajectory.answer_ids, unsure.tokenizer)
    return inputs, trajectory, answer, select_targets(answer, ["red circle", "moon"])


@pytest.fixture
def asked(unsure, run):
    """(methods) -> a sample of the run, to be asked about."""

    def made(*explainers):
        inputs, trajectory, answer, targets = run
        runs = SharedRuns(inputs, trajectory, answer, targets, [toy_picture()], explainers)
        return AskedSample(unsure, inputs.prompt, runs, (3, 4))

    return made


@pytest.fixture
def captioned(tmp_path, model, manager):
    """(captions, options) -> an evaluation of the model on them; each is given the toy's picture."""

    def made(texts, out="out", **options):
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        lines = []
        for number, caption in enumerate(texts):
            toy_picture().save(root / f"{number}.png")
            lines.append({"file_name": f"{number}.png", "prompt": "the blue moon", "caption": caption})
        (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
        asked = {"captions": True, "every_grounded_word": True, "metrics": CHEAP, "baselines": False}
        return evaluate(
            model, "captioned", ["grad-cam"], tmp_path / out, dataset_parameters={"root": str(root)},
            manager=manager, **{**asked, **options},
        )  # fmt: skip

    return made


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad-cam", "diffusion-cam"])
def test_every_column_is_what_the_public_function_gives(method, unsure, run, manager, asked):
    labels = [
        "insertion-deletion:intervals=3", "insertion:intervals=3", "deletion:intervals=3:baseline=blur",
        "road:percentiles=[50,80]", "average-drop", "parameter-randomisation", "label-randomisation",
        "noise-stability:repeats=2",
    ]  # fmt: skip
    inputs, trajectory, answer, targets = run
    picture, explainer = toy_picture(), Explainer(unsure, method, manager=manager)

    def raw(shown=picture, words=targets):
        read = inputs if shown is picture else unsure.prepare(shown, inputs.prompt)
        return explainer.explain_run(read, trajectory, answer, words, pictures=[shown]).raw

    explained = explainer.explain_run(inputs, trajectory, answer, targets, pictures=[picture])
    words = AskedWords(unsure, picture, inputs.prompt, trajectory, targets)
    curves = deletion_insertion(words, explained.maps, mean_coloured(picture), intervals=3)
    blur = deletion_insertion(words, explained.maps, BASELINES["blur"](picture), intervals=3)
    randomised = list(parameter_randomisation(unsure, raw, modules=modules_from_the_top(unsure)))[-1]
    expected = [
        curves.probability_difference, curves.insertion_probability, blur.deletion_probability,
        road(words, explained.maps, percentiles=(50, 80)).score, drop_and_increase(words, explained.maps).drop,
        randomised.spearman.abs(), spearman(raw(), raw(words=other_labels(targets))).abs(),
        noise_stability(raw, picture, repeats=2),
    ]  # fmt: skip

    sample = asked(explainer)
    scorer = SampleScorer(
        columns(manager.registries.metrics, labels),
        sample,
        torch.zeros(2, 36, 48, dtype=torch.bool),
        torch.zeros(0, 36, 48, dtype=torch.bool),
    )
    maps = sample.runs.explain(explainer)[0].maps
    assert torch.equal(maps, explained.maps)
    found = scorer.score(maps, explainer)
    for label, values in zip(labels, expected, strict=True):
        assert [own[label] for own in found] == pytest.approx(
            values.tolist(), rel=1e-5, abs=1e-9, nan_ok=True
        ), label
    assert all(value is not None for value in found[0].values())
    # The model is what it was: randomised parameters have gone back.
    assert torch.equal(raw(), sample.raw_maps(explainer))


def test_a_finer_map_is_asked_with_the_tokens_and_an_inverted_one_gives_minus_the_score(asked, manager):
    sample = asked()
    labels = [CHEAP[0], "road:percentiles=[50]"]
    measure, ranked = (each.measure for each in columns(manager.registries.metrics, labels))
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3))
    fine = maps.repeat_interleave(4, 1).repeat_interleave(4, 2)
    scores = measure.score(sample, maps, None)
    assert scores.abs().min() > 1e-7
    torch.testing.assert_close(measure.score(sample, fine, None), scores)
    torch.testing.assert_close(measure.score(sample, 1 - maps, None), -scores)
    torch.testing.assert_close(ranked.score(sample, 1 - maps, None), -ranked.score(sample, maps, None))
    # What is no method's has no sanity to be checked.
    (sanity,) = columns(manager.registries.metrics, ["noise-stability"])
    assert sanity.measure.score(sample, maps, None).isnan().all()


def test_curves_are_asked_once_for_all_columns_of_a_map(asked, manager, monkeypatch):
    asks = []
    given_ask = AskedWords.with_picture
    monkeypatch.setattr(AskedWords, "with_picture", lambda self, *a: asks.append(1) or given_ask(self, *a))
    sample, maps = asked(), torch.rand(2, 3, 4)
    labels = [f"{name}:intervals=3" for name in ("insertion-deletion", "insertion", "deletion")]
    for column in columns(manager.registries.metrics, labels):
        column.measure.score(sample, maps, None)
    assert len(asks) == 2 + 2 * 2 * (3 - 1)  # with the whole picture, without it; 2 words, 2 curves


# -- function words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad-cam", "diffusion-cam", "dcam"])
def test_func_iou_is_that_of_the_answers_function_words(method, unsure, run, manager, asked):
    inputs, trajectory, answer, targets = run
    picture, explainer = toy_picture(), Explainer(unsure, method, manager=manager)
    (column,) = columns(manager.registries.metrics, ["func-iou"])
    maps = torch.rand(2, 3, 4)
    found = column.measure.score(asked(explainer), maps, explainer)
    cold = select_targets(answer, ["the", "and", "a"])
    run = explainer.explain_run(inputs, trajectory, answer, (*targets, *cold), pictures=[picture])
    nouns, others = run.maps[:2, None], run.maps[2:, None]
    words = word_scores([*map(Noun, nouns), *map(FunctionWord, others)], (36, 48)).func_iou
    assert len(words) == 3
    assert found.tolist() == pytest.approx([float(words.mean())] * 2)
    assert column.higher_is_better
    assert column.measure.score(asked(), maps, None).isnan().all()


def test_words_that_are_cold_in_truth_have_the_best_func_iou(unsure, run, manager, asked, monkeypatch):
    def beside(self, words, explainer):
        assert [word.word for word in words] == ["the", "and", "a"]
        return torch.stack([*torch.eye(6)[None, 2:5, 2:].repeat(2, 1, 1), *torch.zeros(3, 3, 4)])

    monkeypatch.setattr(AskedSample, "maps_beside", beside)
    (column,) = columns(manager.registries.metrics, ["func-iou"])
    explainer = Explainer(unsure, "grad-cam", manager=manager)
    assert column.measure.score(asked(explainer), torch.rand(2, 3, 4), explainer).tolist() == [1, 1]


def test_an_answer_without_function_words_has_none(unsure, run, manager):
    inputs = run[0]
    trajectory = given_trajectory(unsure, "red circle", unsure.default_sampler)
    answer = read_answer(trajectory.answer_ids, unsure.tokenizer)
    runs = SharedRuns(inputs, trajectory, answer, select_targets(answer, ["circle"]), [toy_picture()])
    (column,) = columns(manager.registries.metrics, ["func-iou"])
    explainer = Explainer(unsure, "grad-cam", manager=manager)
    sample = AskedSample(unsure, inputs.prompt, runs, (3, 4))
    assert column.measure.score(sample, torch.rand(1, 3, 4), explainer).isnan().all()


def test_a_metric_that_needs_the_run_is_not_compared_with_published_tables(manager):
    with pytest.raises(ConfigurationError, match="'func-iou' needs more than maps and masks"):
        measures(manager.registries.metrics, ["func-iou"])


# -- methods that share replays ------------------------------------------------------------------------------


def test_methods_that_are_fed_the_same_share_replays_and_no_bit_changes(
    unsure, run, manager, asked, monkeypatch
):
    inputs, trajectory, _, targets = run
    explainers = [Explainer(unsure, method, manager=manager) for method in FED_ALIKE]
    other = Explainer(unsure, "hires-cam", overrides=["probe_layer=0"], manager=manager)
    itself = Explainer(unsure, "occlusion", manager=manager)
    alone = [
        each.probe_run(inputs, trajectory, targets, pictures=[toy_picture()])
        for each in (*explainers, other, itself)
    ]
    replayed = []
    given_replay = Replays.probed
    monkeypatch.setattr(Replays, "probed", lambda self: replayed.append(1) or given_replay(self))
    sample = asked(*explainers, other, itself)
    for explainer, expected in zip((*explainers, other, itself), alone, strict=True):
        probed, seconds = sample.runs.probe(explainer)
        assert torch.equal(probed.raw[0], expected.raw[0])
        assert probed.targets == expected.targets
        assert seconds >= probed.seconds > 0
    assert len(replayed) == 2  # one layer, and the other one
    assert not torch.equal(alone[0].raw[0], alone[1].raw[0])
    # With the parameters in random order all are asked at once, and once.
    randomised = [sample.raw_maps_randomised(0, each) for each in explainers]
    assert len(replayed) == 4
    assert not torch.allclose(randomised[0], alone[0].raw[0])


# -- captions and grounded words -----------------------------------------------------------------------------


def test_captions_are_explained_and_those_that_cannot_be_are_skipped(captioned, tmp_path):
    summary = captioned([CAPTION, "a giraffe", None, "the two star left of a square"])
    assert (summary.samples, summary.skipped) == (2, 2)
    assert [line["answer"] for line in lines(tmp_path / "out/samples.jsonl")] == [
        CAPTION, "the two star left of a square",
    ]  # fmt: skip
    unknown, missing = lines(tmp_path / "out/skipped.jsonl")
    assert "'giraffe'" in unknown["why"]
    assert "has no caption" in missing["why"]
    rows = lines(tmp_path / "out/words.jsonl")
    grounded = {
        (line["sample"], tuple(word["positions"]))
        for line in lines(tmp_path / "out/samples.jsonl")
        for word in line["reliance"]
        if word["grounded"]
    }
    assert {(row["sample"], tuple(row["positions"])) for row in rows} == grounded
    assert summary.words == len(grounded) > 2
    for row in rows:
        assert row["object"] is None
        assert row["probability"] is None
        assert row["scores"][CHEAP[0]] is not None
    assert summary.unscored.keys() == {NOT_GROUNDED}
    assert "the first because" in (tmp_path / "out/summary.md").read_text()
    assert rows[0]["word"] in (tmp_path / "out/table.html").read_text()


def test_a_run_of_captions_continues_and_other_flags_are_refused(captioned, tmp_path):
    texts = [CAPTION, "the two star left of a square"]
    captioned(texts, reliance=True)
    whole = [lines(tmp_path / "out" / name) for name in ("words.jsonl", "samples.jsonl")]
    ledger = tmp_path / "out/samples.jsonl"
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    captioned(texts, reliance=True)
    again = [lines(tmp_path / "out" / name) for name in ("words.jsonl", "samples.jsonl")]
    for line in (*whole[0], *whole[1], *again[0], *again[1]):
        line.pop("seconds")
        line.pop("words_end", None)
    assert again == whole
    for flag in ("captions", "every_grounded_word", "reliance"):
        with pytest.raises(UsageError, match=f"{flag} was True, is False"):
            captioned(texts, **{"reliance": True, flag: False})


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([None, None], {}, "every sample was skipped"),
        (
            [CAPTION],
            {"every_grounded_word": False},
            "in no answer is a word that names something annotated",
        ),
    ],
)
def test_a_run_without_a_word_says_why(captioned, tmp_path, texts, options, said):
    summary = captioned(texts, **options)
    assert summary.words == 0
    assert f"no word was evaluated: {said}" in markdown(summary)
    assert (tmp_path / "out/table.html").exists()


def test_words_without_a_mask_beside_words_with_one(model, manager):
    mask = torch.zeros(36, 48, dtype=torch.bool)
    mask[:12, :12] = True
    sample = Sample(
        "one", toy_picture(), "the blue moon", (SampleObject(("red circle",), mask),),
        "the red circle and a blue moon left of the square",
    )  # fmt: skip
    labels = ["obj-iou", "energy-pointing-game:against=all-objects", *CHEAP]
    evaluator = SampleEvaluator(
        model, {"grad-cam": Explainer(model, "grad-cam", manager=manager)},
        columns(manager.registries.metrics, labels), NameMatcher([("red circle",), ("moon",)]),
        model.default_sampler, captions=True, reliance=True,
    )  # fmt: skip
    named = evaluator.evaluate(evaluator.answer(sample))
    every = replace(evaluator, every_grounded_word=True)
    found = every.evaluate(every.answer(sample))
    # Which words count changes nothing about what is known of them.
    assert found.reliance == named.reliance
    known = {word["word"]: word["known"] for word in named.reliance}
    assert (known["red"], known["circle"], known["moon"], known["and"]) == (
        "seen",
        "seen",
        "unseen",
        "unseen",
    )
    assert known["square"] == "unknown"
    assert {word.why for word in named.unscored} > {NOT_ANNOTATED, NOT_SHOWN}
    assert {word.why for word in found.unscored} <= {NOT_GROUNDED}
    grounded = {tuple(word["positions"]) for word in found.reliance if word["grounded"]}
    for method in ("grad-cam", CEILING):
        rows = {tuple(row["positions"]): row for row in found.rows if row["method"] == method}
        circle = next(positions for positions, row in rows.items() if row["word"] == "circle")
        assert rows.keys() == grounded | {circle}
        assert len(rows) > 1
        for positions, row in rows.items():
            assert (row["scores"]["obj-iou"] is not None) == (positions == circle)
            assert (row["scores"][labels[1]] is not None) == (positions == circle)
            assert (row["scores"][CHEAP[0]] is not None) == (method == "grad-cam" or positions == circle)
    (row,) = [row for row in found.rows if row["word"] == "circle" and row["method"] == "grad-cam"]
    (alone,) = [row for row in named.rows if row["word"] == "circle" and row["method"] == "grad-cam"]
    assert row["scores"] == pytest.approx(alone["scores"], abs=2e-3)


# -- reliance ------------------------------------------------------------------------------------------------


def test_reliance_is_not_measured_unless_it_is_asked_for(captioned, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("asked for reliance")

    monkeypatch.setattr(Explainer, "visual_reliance", refuse)
    assert captioned([CAPTION], every_grounded_word=False).reliance is None
    with pytest.raises(AssertionError, match="asked for reliance"):
        captioned([CAPTION], out="other", every_grounded_word=False, reliance=True)


words = st.tuples(st.integers(-2, 2), st.sampled_from(["seen", "unseen", "unknown"]), st.booleans())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(words, max_size=4), min_size=1, max_size=5), st.integers(0, 3))
def test_separation_is_what_listing_all_pairs_gives(pictures, seed):
    def area(chosen):
        seen, unseen = (
            [nats for own in chosen for nats, known, _ in own if known == kind] for kind in ("seen", "unseen")
        )
        pairs = [(a > b) + 0.5 * (a == b) for a in seen for b in unseen]
        return np.mean(pairs) if pairs else np.nan

    samples = [
        {"reliance": [{"nats": nats, "known": known, "grounded": grounded} for nats, known, grounded in own]}
        for own in pictures
    ]
    found = separation(samples, seed)
    count = len(pictures)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=1000)
    areas = np.array([area([pictures[i] for i in np.repeat(np.arange(count), own)]) for own in drawn])
    expected = [area(pictures)]
    some = not np.isnan(areas).all()
    expected += list(np.nanpercentile(areas, [2.5, 97.5])) if some else [np.nan, np.nan]
    given_back = [np.nan if each is None else each for each in (found.auc, found.low, found.high)]
    np.testing.assert_allclose(given_back, expected, atol=1e-12)
    shares = [grounded for own in pictures for _, known, grounded in own if known == "unseen"]
    assert found.unseen == len(shares)
    assert found.unseen_grounded == (pytest.approx(np.mean(shares)) if shares else None)


def test_separation_of_nothing_is_nothing():
    assert separation([{"reliance": None}, {}]) is None


def test_a_map_that_has_become_flat_keeps_nothing_of_what_it_was():
    rising = torch.linspace(0, 1, 6).view(1, 2, 3)
    flat = torch.zeros(1, 2, 3)
    maps, changed = torch.cat([rising, rising, flat, flat]), torch.cat([-rising, flat, rising, flat])
    found = likeness(maps, changed)
    assert found[:2].tolist() == [1.0, 0.0]
    assert found[2:].isnan().all()


# -- what is refused, and the command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("deletion:baseline=grey", "baseline is 'grey'"),
        ("insertion:intervals=0", "intervals is 0"),
        ("road:percentiles=[100]", r"percentiles are \[100\]"),
        ("noise-stability:repeats=0", "repeats is 0"),
        ("noise-stability:repeats=1.5", "repeats is 1.5"),
        ("noise-stability:std=much", "std is 'much'"),
        ("insertion-deletion:intervals=2.5", "intervals is 2.5"),
        ("pointing-game:tolerance=2.5", "tolerance is 2.5"),
        ("average-drop:seed=1", "'average-drop' cannot be made with"),
        ("insertion-deletoin", "Did you mean 'insertion-deletion'"),
    ],
)
def test_wrong_parameters_are_refused_before_a_model_is_loaded(metric, said, manager, tmp_path):
    with pytest.raises((ConfigurationError, UnknownNameError), match=said):
        evaluate(
            "no-such-model", "toy-things", ["grad-cam"], tmp_path / "out", metrics=[metric], manager=manager
        )


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", ",".join(PLUGINS))
    monkeypatch.chdir(tmp_path)
    arguments = [
        "evaluate", "--model", "toy", "--dataset", "toy-things:.", "--limit", "1", "--methods", "grad-cam",
        "--no-baselines", "--metrics", "obj-iou,road:percentiles=[50,90],insertion-deletion:intervals=2",
        "--reliance", "--out", "out",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    assert caught.value.code == 0, captured.err
    assert "insertion-deletion" in captured.out
    assert "visual reliance: 4 words name what is seen and 0 nothing seen" in captured.out
    scores = lines(tmp_path / "out/words.jsonl")[0]["scores"]
    assert set(scores) == {"obj-iou", "road:percentiles=[50,90]", "insertion-deletion:intervals=2"}
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--captions", "--every-grounded-word"])
    captured = capsys.readouterr()
    assert caught.value.code == 0, captured.err
    assert "no word was evaluated: every sample was skipped" in captured.out
