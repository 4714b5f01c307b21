"""The kit for attributions that ask the model: for every promise there is something that breaks it."""

from __future__ import annotations

import pytest
import torch
from support.promises import PromisesOfTheKit

from dcam_core import ModelAttribution
from dcam_core.testing.model_attributions import CHECKS, toy_replays


class Proper(ModelAttribution):
    """The score of each reading, shared out by the length of the image tokens' embeddings."""

    def __init__(self, *, power=1):
        super().__init__()
        self.power = power

    def forward(self, replays):
        scores, _ = replays.log_probabilities()
        lengths = replays.inputs.embeddings[0, replays.positions].norm(dim=-1)
        return scores.abs()[:, None] * lengths**self.power


def an_attribution(change):
    """Proper, but for a change of (evidence, replays)."""

    class Changed(Proper):
        def forward(self, replays):
            return change(super().forward(replays), replays)

    return Changed()


class Counting(Proper):
    calls = 0

    def forward(self, replays):
        self.calls += 1
        return super().forward(replays) + self.calls


class ByPosition(Proper):
    def __init__(self, power, /):
        super().__init__(power=power)


class KnowsItself(Proper):
    def __init__(self):
        super().__init__()
        self.me = id(self)

    def forward(self, replays):
        return super().forward(replays) * (2 if self.me == id(self) else 1)


def hooked(evidence, replays):
    replays.adapter.model.head.register_forward_hook(lambda *_: None)
    return evidence


def nothing_of_a_prefix(evidence, replays):
    return evidence / 0 if replays.trajectory.settings.cache else evidence


BROKEN = {
    "shape": [
        (an_attribution(lambda e, r: e[:, 1:]), r"gave \[5, 15\] .* for 1 pictures, expected \[5, 16\]"),
        (an_attribution(lambda e, r: e.requires_grad_()), "requires gradients"),
    ],
    "range": [
        (an_attribution(lambda e, r: -e), "goes down to -"),
        (an_attribution(lambda e, r: e / 0), "80 of 80 values are not finite"),
    ],
    "batch": [(an_attribution(lambda e, r: e / e.max()), "readings one by one, against all at once")],
    "batch-sizes": [(an_attribution(lambda e, r: e * r.states_per_forward), "other batch sizes")],
    "prefix-cache": [(an_attribution(nothing_of_a_prefix), "not finite under prefix caching")],
    "model-untouched": [(an_attribution(hooked), "after attributing, changed: hooks of head")],
    "inputs-untouched": [
        (an_attribution(lambda e, r: r.inputs.embeddings.mul_(2)[0, : len(e)]), "wrote into its inputs")
    ],
    "determinism": [(Counting(), "second call .* 80 of 80 values differ")],
    "random-state": [(an_attribution(lambda e, r: e + torch.rand(1)), "random state of torch: use")],
    "copies": [(KnowsItself(), "a deep copy gives something else")],
    "keywords": [(ByPosition(2), "takes power by position alone")],
}


@pytest.fixture(autouse=True)
def a_toy_of_its_own():
    """What is broken on purpose must not stay in the run that is kept for all."""
    yield
    toy_replays.cache_clear()


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, Proper, BROKEN
