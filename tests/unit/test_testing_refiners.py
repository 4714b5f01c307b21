"""The kit for refiners: for every promise there is something that breaks it, and the kit says how."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from support.promises import PromisesOfTheKit

from dcam_core import Refiner
from dcam_core.testing.refiners import CHECKS


class ProperRefiner(Refiner):
    def forward(self, maps, context):
        return maps * context.raw


def a_refiner(change):
    """A change of (maps, context)."""

    class Changed(Refiner):
        def forward(self, maps, context):
            return change(maps, context)

    return Changed()


def noisy(maps, context):
    return (maps * (1 + 0.1 * np.random.rand())).clamp(0, 1)


def write_into_the_context(maps, context):
    context.raw.mul_(0.5)
    return maps


class CountingRefiner(Refiner):
    calls = 0

    def forward(self, maps, context):
        self.calls += 1
        return maps / self.calls


class TrainedRefiner(Refiner):
    def forward(self, maps, context):
        with torch.inference_mode(False), torch.enable_grad():
            return maps.clone().requires_grad_() * 1


class Remembering(Refiner):
    """Keeps what it learnt where no copy finds it."""

    learnt: ClassVar = {}

    def __init__(self):
        super().__init__()
        self.learnt[id(self)] = 0.5

    def forward(self, maps, context):
        return maps * self.learnt.get(id(self), 1)


class PositionalRefiner(ProperRefiner):
    def __init__(self, *sigmas):
        super().__init__()


BROKEN = {
    "shape": [
        (
            a_refiner(lambda m, c: m.float()),
            r"maps \[4, 6, 5\] torch.float64 on cpu became .* torch.float32",
        )
    ],
    "empty-batch": [(a_refiner(lambda m, c: m if len(m) else m.sum(0)), r"\[0, 6, 5\] .* became \[6, 5\]")],
    "range": [
        (
            a_refiner(lambda m, c: m / m.amax((1, 2), keepdim=True)),
            r"zeros: 120 of 120 values are not finite",
        )
    ],
    "zero-map": [
        (
            a_refiner(lambda m, c: (m + 0.1) / 1.1),
            r"on a 6 x 5 grid in torch.float64 zeros became 0.0909",
        )
    ],
    "batch": [(a_refiner(lambda m, c: m / m.max().clamp(min=1e-3) * m.mean()), r"maps one by one")],
    "inputs-untouched": [
        (
            a_refiner(write_into_the_context),
            r"wrote into its inputs: number 1 has other values",
        )
    ],
    "memory-layout": [
        (
            a_refiner(lambda m, c: m.view(len(m), -1).view(m.shape)),
            r"view size is not compatible",
        )
    ],
    "determinism": [(CountingRefiner(), r"the second call")],
    "random-state": [(a_refiner(noisy), r"random state of numpy.random")],
    "device": [(a_refiner(lambda m, c: m * torch.full((1,), 0.5)), r"without saying on which device")],
    "inference": [(TrainedRefiner(), r"its result requires gradients")],
    "copies": [(Remembering(), r"a deep copy gives something else")],
    "keywords": [(PositionalRefiner(), r"takes sigmas by position alone")],
}


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, ProperRefiner, BROKEN
