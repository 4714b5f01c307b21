"""Metrics under published names against the numbers of the released evaluations (tests/fixtures/method)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dcam_core.results.picture_maps import stretch_map
from dcam_plugins.metrics import (
    F1,
    ContrastRatio,
    ContrastScore,
    EnergyPointingGame,
    F3OfMeans,
    FunctionWord,
    IntersectionOverUnion,
    MeanF3,
    Noun,
    Precision,
    Recall,
    ReleasedScores,
    WordScores,
    best_class,
    mean_inside_and_outside,
    released_scores,
    word_scores,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "method"
RECORDED = json.loads((FIXTURES / "metrics.json").read_text())
CASES = [case for case in RECORDED["released"] if case != "constant_map"]
"""All but constant_map: there the released value is an accident of rounding."""


def case_of(name):
    """[1, H, W] map and label map."""
    with np.load(FIXTURES / "localisation.npz") as archive:
        labels = torch.from_numpy(archive[f"{name}__mask"].astype(np.int64))
        heat = torch.from_numpy(archive[f"{name}__heatmap"])
    return stretch_map(heat, (labels.shape[1], labels.shape[0]))[None], labels[None]


@pytest.mark.parametrize("case", CASES)
def test_the_released_scores(case):
    maps, labels = case_of(case)
    expected = RECORDED["released"][case]
    found = {name: float(value) for name, value in released_scores(maps, labels).items()}
    for ours, theirs in {
        "obj_iou": "obj_iou",
        "precision": "precision",
        "recall": "recall",
        "detection_f1": "detection_f1",
        "func_iou": "func_iou",
        "contrast_score": "contrast_score",
        "concentration": "concentration_ratio",
        "f3": "composite_score",
    }.items():
        assert found[ours] == pytest.approx(expected[theirs], abs=1e-6), ours
    assert found["contrast_ratio"] == pytest.approx(expected["contrast_ratio"], rel=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("empty_mask", "full_mask")])
def test_the_means_inside_and_outside(case):
    maps, labels = case_of(case)
    inside, outside = mean_inside_and_outside(maps, labels > 0)
    assert float(inside) == pytest.approx(RECORDED["released"][case]["fg_mean"], abs=1e-6)
    assert float(outside) == pytest.approx(RECORDED["released"][case]["bg_mean"], abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_ours_are_the_released_ones_against_the_same_foreground(case):
    """Where nothing is degenerate; against the class that the oracle took, or the union that it took."""
    maps, labels = case_of(case)
    expected = RECORDED["released"][case]
    chosen = labels == best_class(maps, labels).label[:, None, None]
    for metric, name in ((IntersectionOverUnion(), "obj_iou"), (Precision(), "precision"), (Recall(), "recall"),
                         (F1(), "detection_f1")):  # fmt: skip
        score = float(metric.score(maps, chosen))
        if case in ("empty_mask", "full_mask"):
            assert np.isnan(score)
        else:
            assert score == pytest.approx(expected[name], abs=1e-6)
    for metric, name in ((ContrastRatio(), "contrast_ratio"), (ContrastScore(), "contrast_score"),
                         (EnergyPointingGame(), "concentration_ratio")):  # fmt: skip
        score = float(metric.score(maps, labels > 0))
        if case in ("empty_mask", "full_mask"):
            assert np.isnan(score)
        elif case == "perfect" and name == "contrast_ratio":
            assert score == pytest.approx(255)  # 1e8 there
        else:
            assert score == pytest.approx(expected[name], abs=1e-6)


def test_a_data_set_of_the_released_scores():
    released, ours, per_map = ReleasedScores(), F3OfMeans(), MeanF3()
    for case in ("aligned2", "aligned3"):
        maps, labels = case_of(case)
        released.update(maps, labels)
        chosen = labels == best_class(maps, labels).label[:, None, None]
        ours.update(maps, chosen)
        per_map.update(maps, chosen)
    means = {name: float(value) for name, value in released.compute().items()}
    recorded = [RECORDED["released"][case] for case in ("aligned2", "aligned3")]
    iou, ratio, concentration = (
        np.mean([each[name] for each in recorded])
        for name in ("obj_iou", "contrast_ratio", "concentration_ratio")
    )
    assert means["mean_F3"] == pytest.approx(np.mean([each["composite_score"] for each in recorded]))
    assert means["F3_of_means"] == pytest.approx(3 / (1 / iou + 20 / ratio + 1 / concentration), abs=1e-6)
    assert float(ours.compute()) >= float(per_map.compute())


@pytest.mark.parametrize(
    ("iou", "ratio", "concentration", "published"),
    [(0.2002, 2.18, 0.4122, 18.08), (0.3010, 2.58, 0.5141, 23.04), (0.1782, 1.48, 0.7542, 14.67)],
)
def test_the_published_f3_is_that_of_the_means(iou, ratio, concentration, published):
    metric = F3OfMeans()
    metric.update(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2, dtype=torch.bool))
    metric.totals += torch.tensor([iou, ratio, concentration], dtype=torch.float64)
    metric.defined += 1
    assert 100 * float(metric.compute()) == pytest.approx(published, abs=0.006)


# -- Token Activation Map ------------------------------------------------------------------------------------


def words_of(case):
    recorded = RECORDED["words"][case]
    with np.load(FIXTURES / "words.npz") as archive:
        maps = torch.from_numpy(archive[f"{case}__maps"]).double() / 255
        labels = torch.from_numpy(archive[f"{case}__mask"]) if recorded["has_mask"] else None
    words = []
    for word, tokens in zip(recorded["words"], recorded["token_index_groups"], strict=True):
        kind, category = recorded["word_types"][word], recorded["category"].get(word)
        if kind == "function":
            words.append(FunctionWord(maps[tokens]))
        elif kind == "noun":
            mask = None if labels is None or category is None else labels == category
            words.append(Noun(maps[tokens], mask if mask is not None and mask.any() else None, word))
    return words, recorded


@pytest.mark.parametrize("case", RECORDED["words"])
def test_the_scores_of_words(case):
    """To what one grey level of OpenCV's fixed-point stretching makes: it moves Otsu's threshold by one."""
    words, expected = words_of(case)
    found = word_scores(words)
    assert found.obj_iou.tolist() == pytest.approx(expected["obj_iou"], abs=5e-4)
    assert found.precision.tolist() == pytest.approx(expected["precision"], abs=5e-4)
    assert found.recall.tolist() == pytest.approx(expected["recall"], abs=5e-4)
    assert found.func_iou.tolist() == pytest.approx(expected["func_iou"], abs=6e-3)


def test_the_scores_of_words_over_answers():
    metric = WordScores()
    for case in RECORDED["words"]:
        metric.update(words_of(case)[0])
    means = {name: float(value) for name, value in metric.compute().items()}
    objects = [iou for each in RECORDED["words"].values() for iou in each["obj_iou"]]
    functions = [share for each in RECORDED["words"].values() for share in each["func_iou"]]
    assert (int(metric.objects), int(metric.function_words)) == (len(objects), len(functions))
    iou, func = np.mean(objects), np.mean(functions)
    assert means["obj_iou"] == pytest.approx(iou, abs=5e-4)
    assert means["func_iou"] == pytest.approx(func, abs=6e-3)
    assert means["f1_iou"] == pytest.approx(2 * iou * func / (iou + func), abs=1e-3)
