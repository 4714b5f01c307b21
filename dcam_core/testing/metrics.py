"""The promises of a metric as tests."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor

from dcam_core.conformance.check import BrokenPromiseError, Check, expect
from dcam_core.errors import DcamError
from dcam_core.metric import Metric
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance

__all__ = ["MetricConformance"]

SIZE = (12, 10)


def _masks() -> Tensor:
    """[4, H, W] bool: a rectangle in the middle, one at the border, two parts, and a single pixel."""
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    masks[0, 3:9, 2:7] = True
    masks[1, :4, 6:] = True
    masks[2, 1:4, 1:4] = masks[2, 8:11, 5:9] = True
    masks[3, 7, 3] = True
    return masks


def _maps(dtype: torch.dtype = torch.float64) -> Tensor:
    """[4, H, W] random maps in [0, 1]."""
    return torch.rand(4, *SIZE, dtype=torch.float64, generator=_calls.seeded()).to(dtype)


def _poor(masks: Tensor) -> dict[str, Tensor]:
    """Maps that know nothing of the masks, or the wrong thing."""
    maps = masks.double()
    corner = torch.zeros_like(maps)
    corner[:, 0, 0] = 1
    return {
        "the inverted mask": 1 - maps,
        "a random map": _maps(),
        "an even map": torch.full_like(maps, 0.5),
        "ones": torch.ones_like(maps),
        "zeros": torch.zeros_like(maps),
        "a single pixel in a corner": corner,
        "half of the mask, and as much beside it": (maps + maps.flip(2)) / 2,
    }


def _fresh(metric: Metric) -> Metric:
    """The same metric before its first update; the one under examination is never written to."""
    twin = copy.deepcopy(metric)
    twin.reset()
    return twin


def _computed(metric: Metric, *batches: tuple[Tensor, Tensor]) -> tuple[Tensor, int, int]:
    """Mean, number of maps with a score, and number of those without."""
    twin = _fresh(metric)
    for maps, masks in batches:
        twin.update(maps, masks)
    return twin.compute(), int(twin.defined), int(twin.undefined)


def _scores(metric: Metric) -> str:
    """One score per map: [B] float64, on the device of the maps, for any batch and floating dtype."""
    for count in (4, 1, 0):
        for dtype in (torch.float64, torch.float32, *_calls.HALF):
            maps = _maps(dtype)[:count]
            scores = metric.score(maps, _masks()[:count])
            expect(
                isinstance(scores, Tensor)
                and (scores.shape, scores.dtype, scores.device) == ((count,), torch.float64, maps.device),
                f"maps {_calls.found(maps)} gave {_calls.found(scores)}, expected [{count}] torch.float64",
            )
            exact = metric.score(maps.double(), _masks()[:count])
            _calls.close(scores, exact, 1e-9, f"{dtype} maps, against the same values in float64")
    return "batches of 4, 1 and 0 in 4 precisions"


def _finite(metric: Metric) -> str:
    """A score is a finite number, or NaN where there is none; never infinite, whatever the map."""
    full = torch.ones(4, *SIZE, dtype=torch.bool)
    for name, maps in _poor(_masks()).items():
        for kind, masks in (("objects", _masks()), ("a mask of the whole picture", full)):
            infinite = int(metric.score(maps, masks).isinf().sum())
            expect(infinite == 0, f"{name} against {kind}: {infinite} infinite scores")
    return f"{2 * len(_poor(full))} cases"


def _empty_mask(metric: Metric) -> str:
    """Against an empty mask a map has no score: NaN, left out of the mean, and counted."""
    maps, masks = _maps(), _masks()
    masks[1] = False
    scores = metric.score(maps, masks)
    expect(bool(scores[1].isnan()), f"an empty mask gave the score {scores[1].item():.6g}, expected NaN")
    others = scores[torch.tensor([0, 2, 3])]
    expect(not others.isnan().any(), f"beside an empty mask, maps with objects gave {others.tolist()}")
    mean, defined, undefined = _computed(metric, (maps, masks))
    expect(
        (defined, undefined) == (3, 1),
        f"of 4 maps, one against an empty mask, it counted {defined} with and {undefined} without a score",
    )
    return _calls.close(mean, others.mean(), 1e-12, "the mean, against that of the maps with a score")


def _nothing(metric: Metric) -> str:
    """The mean of no scores is NaN, not a number."""
    mean, defined, undefined = _computed(metric, (_maps(), torch.zeros(4, *SIZE, dtype=torch.bool)))
    expect(bool(mean.isnan()), f"four maps without a score have the mean {mean.item():.6g}, expected NaN")
    expect((defined, undefined) == (0, 4), f"it counted {defined} with and {undefined} without a score")
    return "NaN"


def _best(metric: Metric) -> str:
    """No map has a better score than the mask itself."""
    masks, sign = _masks(), 1 if metric.higher_is_better else -1
    best = metric.score(masks.double(), masks)
    expect(
        not best.isnan().any(), f"the masks as maps have the scores {best.tolist()}: they must have one each"
    )
    for name, maps in _poor(masks).items():
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
    masks = _masks()
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
    maps, masks = _maps(), _masks()
    alone = [metric.score(one[None], mask[None]) for one, mask in zip(maps, masks, strict=True)]
    return _calls.close(
        torch.cat(alone), metric.score(maps, masks), 1e-12, "maps one by one, against all at once"
    )


def _accumulation(metric: Metric) -> str:
    """Updates add up, in any order: the mean is that of all scores."""
    maps, masks = _maps(), _masks()
    expected = metric.score(maps, masks).nanmean()
    parts = [(maps[part], masks[part]) for part in (slice(3, 4), slice(0, 0), slice(0, 3))]
    found, defined, undefined = _computed(metric, *parts)
    expect(
        defined + undefined == 4, f"after 4 maps it counted {defined} with and {undefined} without a score"
    )
    return _calls.close(found, expected, 1e-12, "the mean of three updates, against that of all scores")


def _picture_sizes(metric: Metric) -> str:
    """Pictures of one run differ in size."""
    maps, masks = _maps(), _masks()
    expected = torch.stack([metric.score(maps, masks).nanmean(), metric.score(maps.mT, masks.mT).nanmean()])
    found, _, _ = _computed(metric, (maps, masks), (maps.mT.contiguous(), masks.mT.contiguous()))
    return _calls.close(found, expected.mean(), 1e-9, "12 x 10 and 10 x 12 pictures, against each size alone")


def _reset(metric: Metric) -> str:
    """`reset` forgets everything."""
    twin, half = _fresh(metric), slice(0, 2)
    twin.update(_maps(), _masks())
    twin.reset()
    expect(
        int(twin.defined) == 0 and int(twin.undefined) == 0,
        f"after reset it still counts {int(twin.defined)} maps with and {int(twin.undefined)} without a score",
    )
    twin.update(_maps()[half], _masks()[half])
    expected, _, _ = _computed(metric, (_maps()[half], _masks()[half]))
    return _calls.close(twin.compute(), expected, 0.0, "after reset, against a new metric")


def _merging(metric: Metric) -> str:
    """What two processes saw adds up to what one would have seen."""
    maps, masks = _maps(), _masks()
    masks[1] = False
    first, second = _fresh(metric), _fresh(metric)
    first.update(maps[:3], masks[:3])
    second.update(maps[3:], masks[3:])
    try:
        first.merge_state(second)
    except Exception as error:
        raise BrokenPromiseError(
            f"its states cannot be merged: give each a dist_reduce_fx and keep full_state_update False "
            f"({type(error).__name__}: {error})"
        ) from error
    expected, defined, undefined = _computed(metric, (maps, masks))
    expect(
        (int(first.defined), int(first.undefined)) == (defined, undefined),
        f"merged, it counts {int(first.defined)} maps with and {int(first.undefined)} without a score, "
        f"expected {defined} and {undefined}",
    )
    with warnings.catch_warnings(
        action="ignore", category=UserWarning
    ):  # compute() cannot know of the merging
        return _calls.close(first.compute(), expected, 1e-12, "two halves merged, against all at once")


def _refusals(metric: Metric) -> str:
    """Masks of another size or dtype, and maps that are not in [0, 1], are refused with a `DcamError`."""
    maps, masks = _maps(), _masks()
    wrong = {
        "masks of another size": (maps, masks[:, :-1]),
        "float masks": (maps, masks.double()),
        "maps above 1": (3 * maps, masks),
        "maps with NaN": (maps / 0 * 0, masks),
        "a single map without batch": (maps[0], masks[0]),
    }
    for name, given in wrong.items():
        try:
            _fresh(metric).update(*given)
        except DcamError:
            continue
        except Exception as error:
            raise BrokenPromiseError(
                f"{name} end in {type(error).__name__}: {error}; raise a DcamError"
            ) from error
        raise BrokenPromiseError(f"{name} are scored as if nothing were wrong")
    return f"{len(wrong)} mistakes refused"


def _inputs(metric: Metric) -> str:
    """Nothing is written into maps or masks."""
    inputs = (_maps(), _masks())
    return _calls.inputs_untouched(lambda: metric.score(*inputs), inputs)


def _memory_layout(metric: Metric) -> str:
    """Values count, not where they lie in memory."""
    maps, masks = _maps(), _masks()
    actual = metric.score(_calls.strided(maps), _calls.strided(masks))
    return _calls.close(actual, metric.score(maps, masks), 1e-12, "inputs in another memory layout")


def _determinism(metric: Metric) -> str:
    """The same maps give the same bits."""
    return _calls.deterministic(lambda: metric.score(_maps(), _masks()))


def _random_state(metric: Metric) -> str:
    """No global random state is touched."""
    maps, masks = _maps(), _masks()
    return _calls.random_states_untouched(lambda: metric.score(maps, masks))


def _device(metric: Metric) -> str:
    """Everything is made on the device of the maps."""
    maps, masks = _maps(), _masks()
    return _calls.on_the_device_of_its_inputs(lambda: metric.score(maps, masks))


def _pickling(metric: Metric) -> str:
    """A pickled metric goes on counting where it was."""
    twin = _fresh(metric)
    twin.update(_maps(), _masks())
    try:
        read = pickle.loads(pickle.dumps(twin))  # noqa: S301  (what was written the line before)
    except Exception as error:
        raise BrokenPromiseError(f"it cannot be pickled: {type(error).__name__}: {error}") from error
    read.update(_maps(), _masks())
    expect(
        int(read.defined + read.undefined) == 8,
        f"4 maps, pickled, and 4 more count {int(read.defined)} with and {int(read.undefined)} without a score",
    )
    return _calls.close(read.compute(), twin.compute(), 1e-12, "the same maps again, after pickling")


def _keywords(metric: Metric) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(metric)


CHECKS: tuple[Check[Metric], ...] = (
    Check("scores", _scores),
    Check("finite", _finite),
    Check("empty-mask", _empty_mask),
    Check("nothing", _nothing),
    Check("best", _best),
    Check("direction", _direction),
    Check("batch", _batch),
    Check("accumulation", _accumulation),
    Check("picture-sizes", _picture_sizes),
    Check("reset", _reset),
    Check("merging", _merging),
    Check("refusals", _refusals),
    Check("inputs-untouched", _inputs),
    Check("memory-layout", _memory_layout),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("device", _device),
    Check("pickling", _pickling),
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

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `metric`")

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_promise(self, check: Check[Metric], metric: Metric, request: pytest.FixtureRequest) -> None:
        """The promise is kept."""
        self._hold_to(check, metric, CHECKS, request)
