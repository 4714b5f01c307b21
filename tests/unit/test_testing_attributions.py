"""The kit for attributions: for every promise there is something that breaks it, and the kit says how."""

from __future__ import annotations

import torch
from support.promises import PromisesOfTheKit

from dcam_core import Attribution
from dcam_core.testing.attributions import CHECKS


class ProperAttribution(Attribution):
    def __init__(self, *, power=1):
        super().__init__()
        self.power = power

    def forward(self, activations, gradients):
        wide = torch.promote_types(activations.dtype, torch.float32)
        return (activations.to(wide) * gradients.to(wide)).abs().sum(-1) ** self.power


PROPER = ProperAttribution()


def an_attribution(change):
    """Proper, but for a change of (evidence, activations, gradients)."""

    class Changed(ProperAttribution):
        def forward(self, activations, gradients):
            return change(PROPER(activations, gradients), activations, gradients)

    return Changed()


class Counting(ProperAttribution):
    calls = 0

    def forward(self, activations, gradients):
        self.calls += 1
        return super().forward(activations, gradients) + self.calls


class PositionalAttribution(ProperAttribution):
    def __init__(self, power, /):
        super().__init__(power=power)


class Trained(ProperAttribution):
    def forward(self, activations, gradients):
        with torch.inference_mode(False), torch.enable_grad():
            return super().forward(activations.clone(), gradients.clone().requires_grad_())


class KnowsItself(ProperAttribution):
    def __init__(self):
        super().__init__()
        self.me = id(self)

    def forward(self, activations, gradients):
        return super().forward(activations, gradients) * (2 if self.me == id(self) else 1)


def summed_in_half_precision(evidence, activations, gradients):
    return (activations * gradients).abs().sum(-1).to(evidence.dtype)


BROKEN = {
    "shape": [
        (
            an_attribution(lambda e, a, g: e[..., None]),
            r"gave \[3, 10, 1\] torch.float32 on cpu .* \[3, 10\]",
        )
    ],
    "empty-batch": [(an_attribution(lambda e, a, g: e if len(e) else e.sum()), r"no readings gave \[\]")],
    "range": [
        (
            an_attribution(lambda e, a, g: e / e.amax(1, keepdim=True)),
            r"zero gradients: 30 of 30 values",
        )
    ],
    "dtype": [(an_attribution(lambda e, a, g: e.float()), r"torch.float64 inputs gave torch.float32")],
    "half-precision": [(an_attribution(summed_in_half_precision), r"float16, 4096 channels .* 10 values")],
    "batch": [(an_attribution(lambda e, a, g: e / e.max()), r"readings one by one, against all at once")],
    "token-order": [(an_attribution(lambda e, a, g: e.cumsum(1)), r"tokens in another order")],
    "inputs-untouched": [
        (an_attribution(lambda e, a, g: g.relu_().sum(-1)), r"into its inputs: number 1 has")
    ],
    "memory-layout": [(an_attribution(lambda e, a, g: e + g.view(-1).sum()), r"view size is not compatible")],
    "determinism": [(Counting(), r"second call .* 30 of 30 values differ, largest difference 1")],
    "random-state": [
        (an_attribution(lambda e, a, g: e + torch.rand(1).item()), r"random state of torch: use")
    ],
    "device": [(an_attribution(lambda e, a, g: e + torch.ones(1)), r"without saying on which device")],
    "inference": [(Trained(), r"its result requires gradients")],
    "copies": [(KnowsItself(), r"a deep copy gives something else")],
    "keywords": [(PositionalAttribution(2), r"takes power by position alone")],
}


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, ProperAttribution, BROKEN
