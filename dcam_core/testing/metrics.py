"""The promises of a metric as tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcam_core.conformance.check import Check, expect
from dcam_core.metric import Metric
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance
from dcam_core.testing._metric_examples import SIZE, example_maps, example_masks, poor_maps
from dcam_core.testing._metric_sums import SUMS

__all__ = ["MetricConformance"]


def _scores(metric: Metric) -> str:
    """One score per map: [B] float64, on the device of the maps, for any batch and floating dtype."""
    for count in (4, 1, 0):
        for dtype in (torch.float64, torch.float32, *_calls.HALF):
            maps = example_maps(dtype)[:count]
            scores = metric.score(maps, example_masks()[:count])
            expect(
                isinstance(scores, Tensor)
                and (scores.shape, scores.dtype, scores.device) == ((count,), torch.float64, maps.device),
                f"maps {_calls.found(maps)} gave {_calls.found(scores)}, expected [{count}] torch.float64",
            )
            exact = metric.score(maps.double(), example_masks()[:count])
            _calls.close(scores, exact, 1e-9, f"{dtype} maps, against the same values in float64")
    return "batches of 4, 1 and 0 in 4 precisions"


def _finite(metric: Metric) -> str:
    """A score is a finite number, or NaN where there is none; never infinite, whatever the map."""
    full = torch.ones(4, *SIZE, dtype=torch.bool)
    for name, maps in poor_maps(example_masks()).items():
        for kind, masks in (("objects", example_masks()), ("a mask of the whole picture", full)):
            infinite = int(metric.score(maps, masks).isinf().sum())
            expect(infinite == 0, f"{name} against {kind}: {infinite} infinite scores")
    return f"{2 * len(poor_maps(full))} cases"


def _best(metric: Metric) -> str:
    """No map has a better score than the mask itself."""
    masks, sign = example_masks(), 1 if metric.higher_is_better else -1
    best = metric.score(masks.double(), masks)
    expect(
        not best.isnan().any(), f"the masks as maps have the scores {best.tolist()}: they must have one each"
    )
    for name, maps in poor_maps(masks).items():
        scores = metric.score(maps, masks)
        better = sign * (scores - best) > 1e-9
        expect(
            not better.any(),
            f"{name} scores {scores[better].tolist()}, better than the masks themselves with {best[better].tolist()}",
        )
    return f"{best.min().item():.3g} or better"


def _direction(metric: Metric) -> str:
    """`higher_is_better` says which way is better: masks beat their inverse on average."""
    expect(
        isinstance(metric.higher_is_better, bool),
        f"higher_is_better is {metric.higher_is_better!r}: say True or False",
    )
    masks = example_masks()
    good, bad = metric.score(masks.double(), masks), metric.score((~masks).double(), masks)
    sign = 1 if metric.higher_is_better else -1
    expect(
        bool(sign * (good.nanmean() - bad.nanmean()) > 0),
        f"masks score {good.tolist()}, inverted ones {bad.tolist()}, but higher_is_better is "
        f"{metric.higher_is_better}",
    )
    return f"{good.mean().item():.3g} against {bad.mean().item():.3g}"


def _batch(metric: Metric) -> str:
    """A map scores the same alone and among others."""
    maps, masks = example_maps(), example_masks()
    alone = [metric.score(one[None], mask[None]) for one, mask in zip(maps, masks, strict=True)]
    return _calls.close(
        torch.cat(alone), metric.score(maps, masks), 1e-12, "maps one by one, against all at once"
    )


def _inputs(metric: Metric) -> str:
    """Nothing is written into maps or masks."""
    inputs = (example_maps(), example_masks())
    return _calls.inputs_untouched(lambda: metric.score(*inputs), inputs)


def _memory_layout(metric: Metric) -> str:
    """Values count, not where they lie in memory."""
    maps, masks = example_maps(), example_masks()
    actual = metric.score(_calls.transposed(maps), _calls.transposed(masks))
    return _calls.close(actual, metric.score(maps, masks), 1e-12, "inputs in another memory layout")


def _determinism(metric: Metric) -> str:
    """The same maps give the same bits."""
    return _calls.deterministic(lambda: metric.score(example_maps(), example_masks()))


def _random_state(metric: Metric) -> str:
    """No global random state is touched."""
    maps, masks = example_maps(), example_masks()
    return _calls.random_states_untouched(lambda: metric.score(maps, masks))


def _device(metric: Metric) -> str:
    """Everything is made on the device of the maps."""
    maps, masks = example_maps(), example_masks()
    return _calls.on_the_device_of_its_inputs(lambda: metric.score(maps, masks))


def _keywords(metric: Metric) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(metric)


CHECKS: tuple[Check[Metric], ...] = (
    Check("scores", _scores),
    Check("finite", _finite),
    Check("best", _best),
    Check("direction", _direction),
    Check("batch", _batch),
    *SUMS,
    Check("inputs-untouched", _inputs),
    Check("memory-layout", _memory_layout),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("device", _device),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.Metric`."""


class MetricConformance(Conformance):
    """One test per promise of the contract of a metric.

    Override the fixture `metric`:

    class TestMine(MetricConformance):
        @pytest.fixture
        def metric(self):
            return Mine(threshold=0.5)
    """

    checks = CHECKS

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `metric`")

    @pytest.fixture
    def subject(self, metric: Metric) -> Metric:
        """What is held to the promises."""
        return metric
