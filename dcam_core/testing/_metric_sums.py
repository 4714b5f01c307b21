"""The promises of a metric about what it keeps: sums over batches, what has no score, processes."""

from __future__ import annotations

import pickle
import warnings

import torch

from dcam_core.conformance.check import BrokenPromiseError, Check, expect
from dcam_core.errors import DcamError
from dcam_core.metric import Metric
from dcam_core.testing import _calls
from dcam_core.testing._metric_examples import SIZE, computed, example_maps, example_masks, fresh

__all__ = ["SUMS"]


def _empty_mask(metric: Metric) -> str:
    """Against an empty mask a map has no score: NaN, left out of the mean, and counted."""
    maps, masks = example_maps(), example_masks()
    masks[1] = False
    scores = metric.score(maps, masks)
    expect(bool(scores[1].isnan()), f"an empty mask gave the score {scores[1].item():.6g}, expected NaN")
    others = scores[torch.tensor([0, 2, 3])]
    expect(not others.isnan().any(), f"beside an empty mask, maps with objects gave {others.tolist()}")
    mean, defined, undefined = computed(metric, (maps, masks))
    expect(
        (defined, undefined) == (3, 1),
        f"of 4 maps, one against an empty mask, it counted {defined} with and {undefined} without a score",
    )
    return _calls.close(mean, others.mean(), 1e-12, "the mean, against that of the maps with a score")


def _nothing(metric: Metric) -> str:
    """The mean of no scores is NaN, not a number."""
    mean, defined, undefined = computed(metric, (example_maps(), torch.zeros(4, *SIZE, dtype=torch.bool)))
    expect(bool(mean.isnan()), f"four maps without a score have the mean {mean.item():.6g}, expected NaN")
    expect((defined, undefined) == (0, 4), f"it counted {defined} with and {undefined} without a score")
    return "NaN"


def _accumulation(metric: Metric) -> str:
    """Updates add up, in any order: the mean is that of all scores."""
    maps, masks = example_maps(), example_masks()
    expected = metric.score(maps, masks).nanmean()
    parts = [(maps[part], masks[part]) for part in (slice(3, 4), slice(0, 0), slice(0, 3))]
    found, defined, undefined = computed(metric, *parts)
    expect(
        defined + undefined == 4, f"after 4 maps it counted {defined} with and {undefined} without a score"
    )
    return _calls.close(found, expected, 1e-12, "the mean of three updates, against that of all scores")


def _picture_sizes(metric: Metric) -> str:
    """Pictures of one run differ in size."""
    maps, masks = example_maps(), example_masks()
    expected = torch.stack([metric.score(maps, masks).nanmean(), metric.score(maps.mT, masks.mT).nanmean()])
    found, _, _ = computed(metric, (maps, masks), (maps.mT.contiguous(), masks.mT.contiguous()))
    return _calls.close(found, expected.mean(), 1e-9, "12 x 10 and 10 x 12 pictures, against each size alone")


def _reset(metric: Metric) -> str:
    """`reset` forgets everything."""
    twin, half = fresh(metric), slice(0, 2)
    twin.update(example_maps(), example_masks())
    twin.reset()
    expect(
        int(twin.defined) == 0 and int(twin.undefined) == 0,
        f"after reset it still counts {int(twin.defined)} maps with and {int(twin.undefined)} without a score",
    )
    twin.update(example_maps()[half], example_masks()[half])
    expected, _, _ = computed(metric, (example_maps()[half], example_masks()[half]))
    return _calls.close(twin.compute(), expected, 0.0, "after reset, against a new metric")


def _merging(metric: Metric) -> str:
    """What two processes saw adds up to what one would have seen."""
    maps, masks = example_maps(), example_masks()
    masks[1] = False
    first, second = fresh(metric), fresh(metric)
    first.update(maps[:3], masks[:3])
    second.update(maps[3:], masks[3:])
    try:
        first.merge_state(second)
    except Exception as error:
        raise BrokenPromiseError(
            f"its states cannot be merged: give each a dist_reduce_fx and keep full_state_update False "
            f"({type(error).__name__}: {error})"
        ) from error
    expected, defined, undefined = computed(metric, (maps, masks))
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
    maps, masks = example_maps(), example_masks()
    wrong = {
        "masks of another size": (maps, masks[:, :-1]),
        "float masks": (maps, masks.double()),
        "maps above 1": (3 * maps, masks),
        "maps with NaN": (maps / 0 * 0, masks),
        "a single map without batch": (maps[0], masks[0]),
    }
    for name, given in wrong.items():
        try:
            fresh(metric).update(*given)
        except DcamError:
            continue
        except Exception as error:
            raise BrokenPromiseError(
                f"{name} end in {type(error).__name__}: {error}; raise a DcamError"
            ) from error
        raise BrokenPromiseError(f"{name} are scored as if nothing were wrong")
    return f"{len(wrong)} mistakes refused"


def _pickling(metric: Metric) -> str:
    """A pickled metric goes on counting where it was."""
    twin = fresh(metric)
    twin.update(example_maps(), example_masks())
    try:
        read = pickle.loads(pickle.dumps(twin))  # noqa: S301  (what was written the line before)
    except Exception as error:
        raise BrokenPromiseError(f"it cannot be pickled: {type(error).__name__}: {error}") from error
    read.update(example_maps(), example_masks())
    expect(
        int(read.defined + read.undefined) == 8,
        f"4 maps, pickled, and 4 more count {int(read.defined)} with and {int(read.undefined)} without a score",
    )
    return _calls.close(read.compute(), twin.compute(), 1e-12, "the same maps again, after pickling")


SUMS: tuple[Check[Metric], ...] = (
    Check("empty-mask", _empty_mask),
    Check("nothing", _nothing),
    Check("accumulation", _accumulation),
    Check("picture-sizes", _picture_sizes),
    Check("reset", _reset),
    Check("merging", _merging),
    Check("refusals", _refusals),
    Check("pickling", _pickling),
)
"""What `update`, `compute` and `reset` promise."""
