"""The kit for measures that are given the run: for every promise there is something that breaks it."""

from __future__ import annotations

import torch
from support.promises import PromisesOfTheKit

from dcam_core import ModelMeasure
from dcam_core.testing.model_measures import CHECKS


class Proper(ModelMeasure):
    """How much of a map lies in the upper half of the picture, in the answer's words."""

    def __init__(self, *, power=1):
        self.power = power

    def score(self, sample, maps, explainer):
        half = maps.shape[1] // 2
        upper, whole = maps[:, :half].double().sum((1, 2)), maps.double().sum((1, 2))
        return (upper / whole) ** self.power * len(sample.runs.answer.words)


def a_measure(change):
    """Proper, but for a change of (scores, sample, maps, method)."""

    class Changed(Proper):
        def score(self, sample, maps, explainer):
            return change(super().score(sample, maps, explainer), sample, maps, explainer)

    return Changed()


class Counting(Proper):
    calls = 0

    def score(self, sample, maps, explainer):
        self.calls += 1
        return super().score(sample, maps, explainer) + self.calls


class ByPosition(Proper):
    def __init__(self, power, /):
        super().__init__(power=power)


class Undecided(Proper):
    higher_is_better = None


def hooked(scores, sample, maps, explainer):
    sample.model.model.head.register_forward_hook(lambda *_: None)
    return scores


def written(scores, sample, maps, explainer):
    maps.mul_(0.5)
    return scores


BROKEN = {
    "scores": [
        (a_measure(lambda s, *_: s.float()), r"1 words gave .*float32.*, expected \[1\] torch.float64"),
        (a_measure(lambda s, *_: s.mean()), r"expected \[1\] torch.float64"),
        (a_measure(lambda s, a, m, method: s * len(method.layer)), "'NoneType' object has no attribute"),
    ],
    "finite": [
        (a_measure(lambda s, a, m, by: 1 / m.double().sum((1, 2))), "maps of nothing: 3 infinite scores")
    ],
    "some": [(a_measure(lambda s, *_: s * float("nan")), "no word of the example has a score")],
    "direction": [(Undecided(), "higher_is_better is None: say True or False")],
    "model-untouched": [(a_measure(hooked), "after scoring, changed: hooks of head")],
    "inputs-untouched": [(a_measure(written), "wrote into its inputs: number 0")],
    "determinism": [(Counting(), "second call .* 3 of 3 values differ")],
    "random-state": [(a_measure(lambda s, *_: s + torch.rand(1)), "random state of torch: use")],
    "keywords": [(ByPosition(2), "takes power by position alone")],
}


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, Proper, BROKEN
