"""Parameters and inputs of the metrics that they refuse, and the scores that no mean of maps gives."""

from __future__ import annotations

import pytest
import torch

from dcam_core.errors import ConfigurationError, UsageError
from dcam_plugins.metrics import (
    ContrastRatio,
    ContrastScore,
    F3OfMeans,
    FunctionWord,
    MeanIoU,
    Noun,
    ReleasedScores,
    WordScores,
    released_scores,
    word_scores,
)

# One object, in the upper half of a 4 x 4 picture.
MASK = torch.zeros(4, 4, dtype=torch.bool)
MASK[:2] = True
GOOD = MASK.double()[None]
HALF = torch.cat([torch.ones(1, 4, 2), torch.zeros(1, 4, 2)], dim=2).double()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: ContrastRatio(floor=0), "floor is 0"),
        (lambda: ContrastScore(perfect=0), "perfect is 0"),
        (lambda: ContrastScore(perfect=300), "perfect is 300"),
        (lambda: MeanIoU(thresholds=()), r"thresholds are \[\]"),
        (lambda: MeanIoU(thresholds=(0.5, 1.0)), r"thresholds are \[0.5, 1.0\]"),
    ],
)
def test_parameters_without_meaning_are_refused(make, found):
    with pytest.raises(ConfigurationError, match=found):
        make()


def test_a_clean_map_does_not_drown_the_others_in_a_mean_of_ratios():
    metric = ContrastRatio()
    metric.update(torch.cat([GOOD, HALF]), MASK.expand(2, 4, 4))
    assert float(metric.compute()) == pytest.approx((255 + 1) / 2)
    assert float(released_scores(GOOD, MASK[None].long())["contrast_ratio"]) == pytest.approx(1e8)


def test_merging_adds_up():
    both, first, second = F3OfMeans(), F3OfMeans(), F3OfMeans()
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    both.update(torch.cat([GOOD, HALF]), MASK.expand(2, 4, 4))
    first.update(GOOD, MASK[None])
    second.update(HALF, MASK[None])
    second.update(HALF, empty)
    first.merge_state(second)
    assert (int(first.defined), int(first.undefined)) == (2, 1)
    assert torch.equal(first.totals, both.totals)
    assert float(both.compute()) == pytest.approx(3 / (1 / ((1 + 1 / 3) / 2) + 1 + 1 / 0.75))


def test_nothing_has_no_f3_and_no_word_scores():
    metric, words = F3OfMeans(), WordScores()
    metric.update(GOOD, ~MASK[None] & MASK[None])
    assert metric.compute().isnan()
    words.update([])
    assert all(value.isnan() for value in words.compute().values())


def test_neighbouring_words_for_one_thing_count_once_with_the_better_map():
    poor, good = Noun(HALF, MASK, "polar bear"), Noun(GOOD, MASK, "polar bear")
    other = Noun(HALF, MASK, "cat")
    assert word_scores([poor, good]).obj_iou.tolist() == [1]
    assert word_scores([poor, good, other]).obj_iou.tolist() == [1, pytest.approx(1 / 3)]
    assert word_scores([poor, other, good]).obj_iou.tolist() == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        1,
    ]
    # The released code merges here two words that have nothing to do with a noun between them.
    assert word_scores([poor, other, Noun(HALF), Noun(HALF)]).obj_iou.tolist() == [pytest.approx(1 / 3)] * 2
    assert word_scores([poor, Noun(HALF), good]).obj_iou.tolist() == [pytest.approx(1 / 3), 1]
    # "A polar bear and a polar bear" are two; so has the released code.
    assert word_scores([poor, FunctionWord(HALF), good]).obj_iou.tolist() == [pytest.approx(1 / 3), 1]


def test_an_empty_mask_is_counted_and_in_no_mean():
    metric = WordScores()
    metric.update([Noun(GOOD, MASK), Noun(GOOD, torch.zeros_like(MASK)), FunctionWord(0 * HALF)])
    assert (int(metric.objects), int(metric.undefined), int(metric.function_words)) == (1, 1, 1)
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == {"obj_iou": 1, "precision": 1, "recall": 1, "func_iou": 0, "f1_iou": 0}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([Noun(GOOD[0], MASK)], r"words\[0\].maps is \[4, 4\]"),
        ([FunctionWord(2 * HALF)], r"words\[0\].maps holds values from 0 to 2"),
        ([Noun(GOOD, MASK.double())], r"words\[0\].mask is \[4, 4\] torch.float64"),
        ([Noun(GOOD, MASK), Noun(GOOD, MASK[:2])], r"words\[1\].mask is \[2, 4\] beside others of \[4, 4\]"),
    ],
)
def test_words_that_cannot_be_scored_are_refused(words, found):
    with pytest.raises(UsageError, match=found):
        WordScores().update(words)


def test_labels_must_be_numbers():
    with pytest.raises(UsageError, match=r"labels are torch\.bool"):
        ReleasedScores().update(GOOD, MASK[None])
