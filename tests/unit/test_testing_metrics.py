"""The kit for metrics: for every promise there is something that breaks it, and the kit says how."""

from __future__ import annotations

import random

import torch
from support.promises import PromisesOfTheKit

from dcam_core import Metric
from dcam_core.testing.metrics import CHECKS


class ProperMetric(Metric):
    """Share of the map on the object, less the share beside it."""

    def score(self, maps, masks):
        maps = maps.double()
        on, beside = (maps * masks).sum((1, 2)), (maps * ~masks).sum((1, 2))
        return on / masks.sum((1, 2)) - beside / (masks.shape[1] * masks.shape[2])


def a_metric(change):
    """Proper, but for a change of (scores, maps, masks)."""

    class Changed(ProperMetric):
        def score(self, maps, masks):
            return change(super().score(maps, masks), maps, masks)

    return Changed()


class NumberForNothing(ProperMetric):
    def compute(self):
        return self.total / self.defined.clamp(min=1)


class LastBatchOnly(ProperMetric):
    def update(self, maps, masks):
        for name in ("total", "defined", "undefined"):
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        super().update(maps, masks)


class OneSize(ProperMetric):
    def update(self, maps, masks):
        self.size = getattr(self, "size", maps.shape[1:])
        super().update(maps[:, : self.size[0], : self.size[1]], masks[:, : self.size[0], : self.size[1]])


class KeepsACount(ProperMetric):
    seen = 0

    def update(self, maps, masks):
        super().update(maps, masks)
        self.seen += len(maps)
        self.total += 0.1 * (self.seen > 4)


class CannotBeMerged(ProperMetric):
    full_state_update = True


class Credulous(ProperMetric):
    def update(self, maps, masks):
        self.total += 1.0
        self.defined += len(maps)


class HoldsAFunction(ProperMetric):
    def __init__(self):
        super().__init__()
        self.weigh = lambda scores: scores


class PositionalMetric(ProperMetric):
    def __init__(self, tolerance, /):
        super().__init__()


class CountingMetric(ProperMetric):
    calls = 0

    def score(self, maps, masks):
        self.calls += 1
        return super().score(maps, masks) + self.calls


class LowerIsBetter(ProperMetric):
    higher_is_better = False


BROKEN = {
    "scores": [
        (
            a_metric(lambda s, x, m: s.to(x.dtype)),
            r"gave \[4\] torch.float32 on cpu, expected \[4\] torch.float64",
        )
    ],
    "finite": [(a_metric(lambda s, x, m: s / x.double().std((1, 2))), r"infinite scores")],
    "empty-mask": [
        (a_metric(lambda s, x, m: s.nan_to_num()), r"an empty mask gave the score 0, expected NaN")
    ],
    "nothing": [(NumberForNothing(), r"four maps without a score have the mean 0")],
    "best": [(a_metric(lambda s, x, m: s - (x == 1).sum((1, 2))), r"better than the masks themselves")],
    "direction": [(LowerIsBetter(), r"but higher_is_better is False")],
    "batch": [(a_metric(lambda s, x, m: s - s.nanmean()), r"maps one by one, against all at once")],
    "accumulation": [(LastBatchOnly(), r"after 4 maps it counted 3 with and 0 without")],
    "picture-sizes": [(OneSize(), r"12 x 10 and 10 x 12 pictures")],
    "reset": [(KeepsACount(), r"after reset, against a new metric")],
    "merging": [(CannotBeMerged(), r"its states cannot be merged: give each a dist_reduce_fx")],
    "refusals": [(Credulous(), r"masks of another size are scored as if nothing were wrong")],
    "inputs-untouched": [
        (
            a_metric(lambda s, x, m: s + 0 * x.mul_(0.5).sum((1, 2))),
            r"number 0 has other values",
        )
    ],
    "memory-layout": [
        (
            a_metric(lambda s, x, m: s + 0 * x.view(len(x), -1).sum(1)),
            r"view size is not compatible",
        )
    ],
    "determinism": [(CountingMetric(), r"the second call")],
    "random-state": [(a_metric(lambda s, x, m: s + random.random()), r"random state of random: use")],
    "device": [(a_metric(lambda s, x, m: s + torch.ones(1)), r"without saying on which device")],
    "pickling": [(HoldsAFunction(), r"it cannot be pickled: ")],
    "keywords": [(PositionalMetric(1), r"takes tolerance by position alone")],
}


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, ProperMetric, BROKEN
