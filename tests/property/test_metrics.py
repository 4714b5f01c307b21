"""What metrics promise about every map and mask: bounds, flips, monotonicity, and how they hang together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

import dcam_plugins.plugin
from dcam_core.metric import Metric
from dcam_core.plugins.registry import import_object
from dcam_plugins.metrics import (
    F1,
    AveragePrecision,
    ContrastRatio,
    EnergyLift,
    EnergyPointingGame,
    F3OfMeans,
    FunctionWord,
    IntersectionOverUnion,
    MeanF3,
    Noun,
    PointingGame,
    Precision,
    Recall,
    average_precision,
    best_class,
    intersection_over_union,
    word_scores,
)

few_examples = settings(max_examples=25, deadline=None)

LIMITS = {"contrast-ratio": 255.0, "energy-lift": float("inf")}
"""Highest scores, where they are not 1."""


def registered():
    targets: dict[str, str] = {}
    dcam_plugins.plugin.dcam_register_metrics(lambda name, target, **facts: targets.update({name: target}))
    made = {name: import_object(target)() for name, target in targets.items()}
    return {name: metric for name, metric in made.items() if isinstance(metric, Metric)}


METRICS = registered()

for_every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@st.composite
def cases(draw):
    """[B, H, W] maps in [0, 1], smooth to spiky, with ties and zeros; and masks, none empty or full."""
    count, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    maps = torch.rand(count, height, width, dtype=torch.float64, generator=generator)
    maps = maps ** draw(st.sampled_from([0.3, 1.0, 8.0]))
    if draw(st.booleans()):
        maps = maps.round(decimals=1)
    if draw(st.booleans()):
        maps = maps.where(maps > maps.mean(), 0)
    masks = torch.rand(count, height, width, generator=generator) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    return maps, masks


@for_every_metric
@few_examples
@given(cases())
def test_scores_are_within_their_bounds(metric, case):
    scores = metric.score(*case)
    assert (scores >= 0).all()
    name = next(name for name, each in METRICS.items() if each is metric)
    assert (scores <= LIMITS.get(name, 1.0) + 1e-12).all()


@for_every_metric
@few_examples
@given(cases())
def test_a_flipped_picture_scores_the_same(metric, case):
    maps, masks = case
    # The first of equally high pixels is another one in a flipped picture.
    assume(all((each == each.max()).sum() == 1 for each in maps))
    for dims in ([1], [2], [1, 2]):
        found = metric.score(maps.flip(dims), masks.flip(dims))
        torch.testing.assert_close(found, metric.score(maps, masks), rtol=0, atol=1e-12)


@for_every_metric
@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_a_mask_without_or_with_everything_has_no_score_and_is_counted(metric, full):
    metric.reset()
    maps, masks = torch.rand(3, 5, 4), torch.full((3, 5, 4), full)
    masks[1, 2:4, 1:3] = not full
    metric.update(maps, masks)
    assert (int(metric.defined), int(metric.undefined)) == (1, 2)
    assert metric.score(maps, masks).isnan().tolist() == [True, False, True]


@few_examples
@given(cases(), st.floats(0.05, 1))
def test_a_fainter_map_lies_where_it_lay(case, factor):
    maps, masks = case
    for metric in (EnergyPointingGame(), EnergyLift(), AveragePrecision(), PointingGame()):
        # Rounding may join two values that differed in their last bits; powers of two do not round.
        halves = 2.0 ** torch.tensor(factor).log2().floor()
        torch.testing.assert_close(metric.score(maps * halves, masks), metric.score(maps, masks))


@few_examples
@given(cases())
def test_a_map_that_rises_on_the_object_scores_no_worse(case):
    maps, masks = case
    better = maps + (1 - maps) * masks * 0.5
    for metric in (EnergyPointingGame(), ContrastRatio(), AveragePrecision()):
        assert (metric.score(better, masks) >= metric.score(maps, masks) - 1e-12).all()


@few_examples
@given(cases())
def test_contrast_and_concentration_are_one_quantity_given_the_area(case):
    maps, masks = case
    area = masks.double().flatten(1).mean(1)
    ratio = ContrastRatio(floor=1e-12).score(maps, masks)
    concentration = EnergyPointingGame().score(maps, masks)
    expected = ratio * area / (ratio * area + 1 - area)
    beside = (maps * ~masks).flatten(1).sum(1) > 0
    torch.testing.assert_close(concentration[beside], expected[beside])


@few_examples
@given(cases())
def test_f1_and_iou_are_one_quantity(case):
    iou = IntersectionOverUnion().score(*case)
    torch.testing.assert_close(F1().score(*case), 2 * iou / (1 + iou))
    assert (iou <= torch.minimum(Precision().score(*case), Recall().score(*case)) + 1e-12).all()


@few_examples
@given(cases())
def test_average_precision_is_the_fields(case):
    maps, masks = case
    found = average_precision(maps, masks)
    for one, mask, score in zip(maps, masks, found, strict=True):
        expected = binary_average_precision(one.flatten(), mask.flatten().int())
        assert float(score) == pytest.approx(float(expected), abs=1e-6)


@few_examples
@given(cases())
def test_the_f3_of_means_is_no_smaller_than_the_mean_of_f3_while_no_ratio_is_capped(case):
    maps, masks = case
    assume((ContrastRatio().score(maps, masks) < 20).all())
    of_means, mean = F3OfMeans(), MeanF3()
    of_means.update(maps, masks)
    mean.update(maps, masks)
    assert float(of_means.compute()) >= float(mean.compute()) - 1e-12


@few_examples
@given(cases(), st.integers(1, 4))
def test_the_oracle_is_the_best_of_all_classes(case, classes):
    maps, _ = case
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes + 1, maps.shape, generator=generator)
    best = best_class(maps, labels)
    per_class = torch.stack(
        [intersection_over_union(maps, labels == label) for label in range(1, classes + 1)]
    )
    torch.testing.assert_close(best.iou, per_class.amax(0))
    for index, label in enumerate(best.label.tolist()):
        if label:
            assert float(per_class[label - 1, index]) == float(best.iou[index])


@few_examples
@given(cases())
def test_a_darker_function_word_scores_no_worse(case):
    maps, masks = case
    noun = Noun(maps, masks[0], "dog")
    bright, dark = (word_scores([noun, FunctionWord(each)]).func_iou for each in (maps, maps / 2))
    assert float(dark) >= float(bright)
    assert word_scores([FunctionWord(maps)]).func_iou.tolist() == []
