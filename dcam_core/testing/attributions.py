"""The promises of an attribution as tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcam_core.attribution import Attribution
from dcam_core.conformance.check import Check, expect
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance

__all__ = ["AttributionConformance"]

READINGS, TOKENS, CHANNELS = 3, 10, 6


def _example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Activations and gradients of both signs, [B, N, C]."""
    shape, generator = (READINGS, TOKENS, CHANNELS), _calls.seeded()
    made = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2)]
    return made[0], made[1]


def _awkward() -> dict[str, tuple[Tensor, Tensor]]:
    """What may well be handed over, and easily leads to 0/0."""
    activations, gradients = _example(torch.float32)
    nothing, even = torch.zeros_like(activations), torch.ones_like(activations)
    return {
        "zero gradients": (activations, nothing),
        "zero activations": (nothing, gradients),
        "zeros alone": (nothing, nothing),
        "the same activations at every token": (even, gradients),
        "a single token": (activations[:, :1], gradients[:, :1]),
        "a single channel": (activations[..., :1], gradients[..., :1]),
        "tiny gradients": (activations, gradients * 1e-30),
    }


def _shape(attribution: Attribution) -> str:
    """One number per image token: [B, N], on the device of the inputs."""
    for readings, tokens in ((READINGS, TOKENS), (1, TOKENS), (READINGS, 1), (1, 1)):
        activations, gradients = (each[:readings, :tokens] for each in _example(torch.float32))
        evidence = attribution(activations, gradients)
        expect(
            isinstance(evidence, Tensor) and evidence.shape == (readings, tokens),
            f"it gave {_calls.found(evidence)} for activations {list(activations.shape)}, expected "
            f"[{readings}, {tokens}]",
        )
        expect(evidence.device == activations.device, f"it gave {_calls.found(evidence)} for inputs on cpu")
    return "4 shapes"


def _empty_batch(attribution: Attribution) -> str:
    """No readings give no evidence: [0, N]."""
    activations, gradients = _example(torch.float32)
    evidence = attribution(activations[:0], gradients[:0])
    expect(
        evidence.shape == (0, TOKENS), f"no readings gave {_calls.found(evidence)}, expected [0, {TOKENS}]"
    )
    return f"[0, {TOKENS}]"


def _range(attribution: Attribution) -> str:
    """Evidence is finite and >= 0, also where gradients or activations are zero or do not vary."""
    cases = {"ordinary activations and gradients": _example(torch.float32), **_awkward()}
    for name, (activations, gradients) in cases.items():
        evidence = attribution(activations, gradients)
        wrong = int((~evidence.isfinite()).sum())
        expect(wrong == 0, f"{name}: {wrong} of {evidence.numel()} values are not finite")
        expect(
            evidence.min().item() >= 0, f"{name}: evidence goes down to {evidence.min().item():.3g}, below 0"
        )
    return f"{len(cases)} kinds of inputs"


def _dtype(attribution: Attribution) -> str:
    """float32 and float64 are kept; half precision gives float32."""
    rule = {torch.float64: torch.float64, torch.float32: torch.float32} | dict.fromkeys(
        _calls.HALF, torch.float32
    )
    for given, expected in rule.items():
        evidence = attribution(*_example(given))
        expect(evidence.dtype == expected, f"{given} inputs gave {evidence.dtype}, expected {expected}")
    return f"{len(rule)} dtypes"


def _half_precision(attribution: Attribution) -> str:
    """Sums over thousands of channels do not overflow in half precision."""
    signs = torch.randn(1, TOKENS, 4096, generator=_calls.seeded()).sign()
    for dtype in _calls.HALF:
        evidence = attribution((100 * signs).to(dtype), (100 * signs).to(dtype))
        wrong = int((~evidence.isfinite()).sum())
        expect(
            wrong == 0, f"{dtype}, 4096 channels of size 100: {wrong} values are not finite: sum in float32"
        )
    return "4096 channels of size 100"


def _batch(attribution: Attribution) -> str:
    """A reading gets the same evidence alone and among others."""
    activations, gradients = _example()
    together = attribution(activations, gradients)
    alone = [attribution(a[None], g[None]) for a, g in zip(activations, gradients, strict=True)]
    return _calls.close(torch.cat(alone), together, 1e-9, "readings one by one, against all at once")


def _token_order(attribution: Attribution) -> str:
    """Where the tokens are permuted, their evidence is permuted alike."""
    activations, gradients = _example()
    order = torch.randperm(TOKENS, generator=_calls.seeded())
    permuted = attribution(activations[:, order], gradients[:, order])
    expected = attribution(activations, gradients)[:, order]
    return _calls.close(
        permuted, expected, 1e-9, "tokens in another order, against the evidence in that order"
    )


def _inputs(attribution: Attribution) -> str:
    """Nothing is written into the activations or gradients."""
    inputs = _example()
    return _calls.inputs_untouched(lambda: attribution(*inputs), inputs)


def _memory_layout(attribution: Attribution) -> str:
    """Values count, not where they lie: transposed gradients, and activations that all readings share."""
    activations, gradients = _example()
    shared = activations[:1].expand_as(activations)
    expected = attribution(shared.contiguous(), gradients)
    actual = attribution(shared, _calls.transposed(gradients))
    return _calls.close(actual, expected, 1e-9, "inputs in another memory layout")


def _determinism(attribution: Attribution) -> str:
    """The same inputs give the same bits."""
    return _calls.deterministic(lambda: attribution(*_example()))


def _random_state(attribution: Attribution) -> str:
    """No global random state is touched."""
    inputs = _example()
    return _calls.random_states_untouched(lambda: attribution(*inputs))


def _device(attribution: Attribution) -> str:
    """Everything is made on the device of the inputs."""
    inputs = _example()
    return _calls.on_the_device_of_its_inputs(lambda: attribution(*inputs))


def _inference(attribution: Attribution) -> str:
    """It runs without grad mode, and its evidence requires no gradients then."""
    inputs = _example()
    return _calls.without_graph(lambda: attribution(*inputs))


def _copies(attribution: Attribution) -> str:
    """A copy does the same."""
    return _calls.copied(attribution, lambda module: module(*_example()))


def _keywords(attribution: Attribution) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(attribution)


CHECKS: tuple[Check[Attribution], ...] = (
    Check("shape", _shape),
    Check("empty-batch", _empty_batch),
    Check("range", _range),
    Check("dtype", _dtype),
    Check("half-precision", _half_precision),
    Check("batch", _batch),
    Check("token-order", _token_order),
    Check("inputs-untouched", _inputs),
    Check("memory-layout", _memory_layout),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("device", _device),
    Check("inference", _inference),
    Check("copies", _copies),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.Attribution`."""


class AttributionConformance(Conformance):
    """One test per promise of the contract of an attribution.

    Override the fixture `attribution`:

    class TestMine(AttributionConformance):
        @pytest.fixture
        def attribution(self):
            return Mine(power=2)
    """

    checks = CHECKS

    @pytest.fixture
    def attribution(self) -> Attribution:
        """The attribution under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `attribution`")

    @pytest.fixture
    def subject(self, attribution: Attribution) -> Attribution:
        """What is held to the promises."""
        return attribution
