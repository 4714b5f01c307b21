"""The promises of an attribution that asks the model itself, as tests on the toy model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_core.conformance.check import Check, expect
from dcam_core.conformance.untouched import ModelState
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.replayed import Reading
from dcam_core.probing.replays import Replays
from dcam_core.probing.untouched import untouched
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance
from dcam_core.testing.toy import toy_adapter, toy_picture

__all__ = ["ModelAttributionConformance", "toy_replays"]


@cache
def toy_replays(pictures: int = 1, *, cache: str | None = None) -> Replays:
    """A run of the toy model, with five readings in three states; words of one token and of two.

    Args:
        pictures: how many pictures the prompt has.
        cache: the sampler's; "prefix" reads the prompt once and by itself.
    """
    adapter = toy_adapter()
    shown = [toy_picture(), toy_picture((36, 48))][:pictures]
    inputs = adapter.prepare(shown[0] if pictures == 1 else shown, "the red circle")
    with torch.no_grad(), untouched(adapter.model):
        run = adapter.denoise(inputs, adapter.default_sampler.merged({"cache": cache, "stop_sequences": ()}))
    objective = GradientTarget(lambda logits, ids: logits[: len(ids)].gather(-1, ids[:, None]).mean())
    readings = [
        Reading(
            run.states[step], positions, tuple(int(run.final[position]) for position in positions), objective
        )
        for step, positions in ((0, (0,)), (0, (1, 2)), (3, (4,)), (3, (0,)), (5, (6,)))
    ]
    return Replays(adapter, inputs, run, readings, picture_grids(inputs, None), ("blocks.0",), shown)


def _evidence(attribution: ModelAttribution, replays: Replays) -> Tensor:
    """As the engine asks."""
    with torch.inference_mode(False), torch.no_grad(), untouched(replays.adapter.model):
        evidence: Tensor = attribution(replays)
    return evidence


def _shape(attribution: ModelAttribution) -> str:
    """One floating-point number per reading and image token: [R, N], without a graph."""
    for number in (1, 2):
        replays = toy_replays(number)
        expected = [len(replays.readings), len(replays.positions)]
        evidence = _evidence(attribution, replays)
        expect(
            isinstance(evidence, Tensor)
            and list(evidence.shape) == expected
            and evidence.is_floating_point(),
            f"it gave {_calls.found(evidence)} for {number} pictures, expected {expected} floating-point",
        )
        expect(not evidence.requires_grad, "its evidence requires gradients")
    return "one picture, and two"


def _range(attribution: ModelAttribution) -> str:
    """Evidence is finite and >= 0."""
    evidence = _evidence(attribution, toy_replays())
    wrong = int((~evidence.isfinite()).sum())
    expect(wrong == 0, f"{wrong} of {evidence.numel()} values are not finite")
    expect(evidence.min().item() >= 0, f"evidence goes down to {evidence.min().item():.3g}, below 0")
    return f"{evidence.min().item():.2g} to {evidence.max().item():.2g}"


def _batch(attribution: ModelAttribution) -> str:
    """A reading gets the same evidence alone and among others."""
    replays = toy_replays()
    together = _evidence(attribution, replays)
    alone = [_evidence(attribution, replace(replays, readings=[reading])) for reading in replays.readings]
    return _calls.close(torch.cat(alone), together, 1e-4, "readings one by one, against all at once")


def _batch_sizes(attribution: ModelAttribution) -> str:
    """How many states and readings share a pass changes nothing."""
    replays = toy_replays()
    small = replace(replays, states_per_forward=1, targets_per_backward=3)
    actual, expected = _evidence(attribution, small), _evidence(attribution, replays)
    return _calls.close(actual, expected, 1e-4, "other batch sizes")


def _prefix_cache(attribution: ModelAttribution) -> str:
    """It works where the prompt is read once, by itself."""
    evidence = _evidence(attribution, toy_replays(cache="prefix"))
    expect(bool(evidence.isfinite().all()), "values are not finite under prefix caching")
    return "prefix"


def _model(attribution: ModelAttribution) -> str:
    """No weight, buffer, hook, gradient or flag of the model is another than before."""
    replays = toy_replays()
    before = ModelState.of(replays.adapter.model)
    _evidence(attribution, replays)
    before.expect_unchanged(replays.adapter.model, "after attributing")
    return f"{len(before.facts)} facts as before"


def _inputs(attribution: ModelAttribution) -> str:
    """Nothing is written into the prompt or the recorded states."""
    replays = toy_replays()
    given = [replays.inputs.embeddings, replays.trajectory.states]
    return _calls.inputs_untouched(lambda: _evidence(attribution, replays), given)


def _determinism(attribution: ModelAttribution) -> str:
    """The same run gives the same bits."""
    return _calls.deterministic(lambda: _evidence(attribution, toy_replays()))


def _random_state(attribution: ModelAttribution) -> str:
    """No global random state is touched."""
    replays = toy_replays()
    return _calls.random_states_untouched(lambda: attribution(replays))


def _copies(attribution: ModelAttribution) -> str:
    """A copy does the same."""
    return _calls.copied(attribution, lambda module: module(toy_replays()).detach())


def _keywords(attribution: ModelAttribution) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(attribution)


CHECKS: tuple[Check[ModelAttribution], ...] = (
    Check("shape", _shape),
    Check("range", _range),
    Check("batch", _batch),
    Check("batch-sizes", _batch_sizes),
    Check("prefix-cache", _prefix_cache),
    Check("model-untouched", _model),
    Check("inputs-untouched", _inputs),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("copies", _copies),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.ModelAttribution`."""


class ModelAttributionConformance(Conformance):
    """One test per promise of the contract of an attribution that asks the model itself.

    Override the fixture `attribution`:

    class TestMine(ModelAttributionConformance):
        @pytest.fixture
        def attribution(self):
            return Mine(patches=4)
    """

    checks = CHECKS

    @pytest.fixture
    def attribution(self) -> ModelAttribution:
        """The attribution under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `attribution`")

    @pytest.fixture
    def subject(self, attribution: ModelAttribution) -> ModelAttribution:
        """What is held to the promises."""
        return attribution
