"""Metrics: sums over batches, what has no score, wrong scores and inputs; and the values of those that ship."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection

from dcam_core import Metric
from dcam_core.errors import ConfigurationError, PluginError, UsageError
from dcam_core.metric import GivenScores
from dcam_plugins.metrics import (
    EnergyPointingGame,
    F3OfMeans,
    IntersectionOverUnion,
    MeanF3,
    MeanIoU,
    PointingGame,
)

# One object in the upper half of a 4 x 4 picture, and none in a second one.
MASKS = torch.zeros(2, 4, 4, dtype=torch.bool)
MASKS[0, :2] = True


def a_map(*rows):
    """[2, 4, 4], the same map twice."""
    return torch.tensor(rows).expand(2, 4, 4)


LEFT_HALF = a_map(*[[1.0, 1, 0, 0]] * 4)
BELOW = a_map([0.0] * 4, [0.0] * 4, [1.0, 0, 0, 0], [0.0] * 4)


@pytest.mark.parametrize(
    ("metric", "maps", "expected"),
    [
        (IntersectionOverUnion(), LEFT_HALF, 4 / 12),
        (IntersectionOverUnion(), BELOW, 0),
        (MeanIoU(thresholds=[0.5]), LEFT_HALF, 4 / 12),
        # IoU 1/3; on the object as high as beside it, of a ratio of 20 that would be perfect; half of it inside.
        (MeanF3(), LEFT_HALF, 3 / (3 + 20 + 2)),
        (F3OfMeans(), LEFT_HALF, 3 / (3 + 20 + 2)),
        (PointingGame(), LEFT_HALF, 1),
        (PointingGame(), BELOW, 0),
        (PointingGame(tolerance=1), BELOW, 1),
        (EnergyPointingGame(), LEFT_HALF, 0.5),
        (EnergyPointingGame(), BELOW, 0),
    ],
)
def test_a_score_that_one_can_count_by_hand(metric, maps, expected):
    metric.update(maps, MASKS)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
    assert (int(metric.defined), int(metric.undefined)) == (1, 1)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ConfigurationError, match="tolerance is -1"):
        PointingGame(tolerance=-1)


def test_metrics_of_one_run_stand_in_one_collection():
    collection = MetricCollection({"iou": IntersectionOverUnion(), "energy": EnergyPointingGame()})
    collection.update(LEFT_HALF, MASKS)
    assert {name: round(float(value), 3) for name, value in collection.compute().items()} == {
        "iou": 0.333,
        "energy": 0.5,
    }


def test_calling_a_metric_gives_the_batchs_own_mean_and_keeps_the_sum():
    metric = EnergyPointingGame()
    assert float(metric(BELOW, MASKS)) == 0
    assert float(metric(LEFT_HALF, MASKS)) == 0.5
    assert float(metric.compute()) == 0.25


def test_lower_may_be_better():
    class Outside(EnergyPointingGame):
        higher_is_better = False

        def score(self, maps, masks):
            return 1 - super().score(maps, masks)

    metric = Outside()
    metric.update(LEFT_HALF, MASKS)
    assert float(metric.compute()) == 0.5
    assert int(metric.undefined) == 1


def test_scores_made_elsewhere_have_a_mean_too():
    metric = GivenScores()
    metric.update(torch.tensor([0.25, float("nan"), 0.75]))
    metric.update(torch.zeros(0))
    assert float(metric.compute()) == 0.5
    assert (int(metric.defined), int(metric.undefined)) == (2, 1)
    for wrong in (torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.tensor([float("inf")])):
        with pytest.raises(UsageError, match="scores are"):
            metric.update(wrong)


class Faulty(Metric):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def score(self, maps, masks):
        return self.change(maps.double().mean((1, 2)))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda scores: scores[:, None], r"metric Faulty gave \[2, 1\] torch.float64"),
        (lambda scores: scores.float(), r"gave \[2\] torch.float32"),
        (lambda scores: scores / 0, r"with 2 infinite values for 2 maps"),
    ],
)
def test_what_no_score_can_be_is_the_metrics_failure(change, found):
    with pytest.raises(PluginError, match=found):
        Faulty(change).update(LEFT_HALF, MASKS)


@pytest.mark.parametrize(
    ("maps", "masks", "found"),
    [
        (LEFT_HALF[0], MASKS[0], r"maps are \[4, 4\] torch.float32: a metric takes \[B, H, W\]"),
        (LEFT_HALF.long(), MASKS, r"torch.int64: a metric takes"),
        (LEFT_HALF, MASKS[:1], r"masks are \[1, 4, 4\] torch.bool beside maps \[2, 4, 4\]"),
        (LEFT_HALF, MASKS.float(), r"masks are \[2, 4, 4\] torch.float32"),
        (3 * LEFT_HALF, MASKS, r"values from 0 to 3: a metric takes values in \[0, 1\]"),
        (LEFT_HALF * float("nan"), MASKS, r"values from nan to nan"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_what_was_found(maps, masks, found):
    with pytest.raises(UsageError, match=found):
        IntersectionOverUnion().update(maps, masks)


def test_no_maps_are_no_scores():
    metric = IntersectionOverUnion()
    metric.update(LEFT_HALF[:0], MASKS[:0])
    assert (int(metric.defined), int(metric.undefined)) == (0, 0)
    assert metric.compute().isnan()
