"""The promises of a measure that is given the run, as tests on the toy model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcam_core.conformance.check import Check, expect
from dcam_core.conformance.untouched import ModelState
from dcam_core.denoising.given import given_trajectory
from dcam_core.evaluation.asked_sample import AskedSample
from dcam_core.evaluation.sharing import SharedRuns
from dcam_core.explainer import Explainer
from dcam_core.model_measure import ModelMeasure
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance
from dcam_core.testing.toy import toy_adapter, toy_picture

__all__ = ["ModelMeasureConformance", "toy_sample"]

_WORDS = ("red circle", "moon", "star")


def toy_sample(words: int = len(_WORDS)) -> tuple[AskedSample, Explainer, Tensor]:
    """A text that the toy model is given, some of its words, and their maps.

    Args:
        words: how many, 1 to 3; the first has two tokens.

    Returns:
        The sample, the method, and its maps [words, rows, columns].
    """
    adapter = toy_adapter()
    inputs = adapter.prepare(toy_picture(), "the blue moon")
    trajectory = given_trajectory(adapter, "the red circle , a moon and a star", adapter.default_sampler)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    explainer = Explainer(adapter)
    targets = select_targets(answer, _WORDS[:words])
    runs = SharedRuns(inputs, trajectory, answer, targets, [toy_picture()], [explainer])
    sample = AskedSample(adapter, inputs.prompt, runs, (3, 4))
    return sample, explainer, runs.explain(explainer)[0].maps


def _score(measure: ModelMeasure, words: int = len(_WORDS)) -> Tensor:
    sample, explainer, maps = toy_sample(words)
    return measure.score(sample, maps, explainer)


def _scores(measure: ModelMeasure) -> str:
    """One score per word: [T] float64, for any number of words, also where maps are no method's."""
    for words in (1, len(_WORDS)):
        sample, explainer, maps = toy_sample(words)
        for by in (explainer, None):
            scores = measure.score(sample, maps, by)
            expect(
                isinstance(scores, Tensor) and (scores.shape, scores.dtype) == ((words,), torch.float64),
                f"{words} words gave {_calls.found(scores)}, expected [{words}] torch.float64",
            )
    return "1 and 3 words, with a method and without"


def _finite(measure: ModelMeasure) -> str:
    """A score is a finite number, or NaN where there is none; never infinite, whatever the map."""
    sample, explainer, maps = toy_sample()
    for name, each in {"a method": maps, "nothing": 0 * maps, "everything": 0 * maps + 1}.items():
        infinite = int(measure.score(sample, each, explainer).isinf().sum())
        expect(infinite == 0, f"maps of {name}: {infinite} infinite scores")
    return "three kinds of maps"


def _some(measure: ModelMeasure) -> str:
    """The maps of a method have a score."""
    scores = _score(measure)
    expect(not scores.isnan().all(), "no word of the example has a score")
    return ", ".join(f"{score:.3g}" for score in scores.tolist())


def _direction(measure: ModelMeasure) -> str:
    """`higher_is_better` is said."""
    said = measure.higher_is_better
    expect(isinstance(said, bool), f"higher_is_better is {said!r}: say True or False")
    return str(said)


def _model(measure: ModelMeasure) -> str:
    """No weight, buffer, hook, gradient or flag of the model is another than before."""
    sample, explainer, maps = toy_sample()
    before = ModelState.of(sample.model.model)
    measure.score(sample, maps, explainer)
    before.expect_unchanged(sample.model.model, "after scoring")
    return f"{len(before.facts)} facts as before"


def _inputs(measure: ModelMeasure) -> str:
    """Nothing is written into the maps, the prompt or the recorded states."""
    sample, explainer, maps = toy_sample()
    given = [maps, sample.runs.inputs.embeddings, sample.runs.trajectory.states]
    return _calls.inputs_untouched(lambda: measure.score(sample, maps, explainer), given)


def _determinism(measure: ModelMeasure) -> str:
    """The same run gives the same bits."""
    return _calls.deterministic(lambda: _score(measure))


def _random_state(measure: ModelMeasure) -> str:
    """No global random state is touched."""
    sample, explainer, maps = toy_sample()
    return _calls.random_states_untouched(lambda: measure.score(sample, maps, explainer))


def _keywords(measure: ModelMeasure) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(measure)


CHECKS: tuple[Check[ModelMeasure], ...] = (
    Check("scores", _scores),
    Check("finite", _finite),
    Check("some", _some),
    Check("direction", _direction),
    Check("model-untouched", _model),
    Check("inputs-untouched", _inputs),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.ModelMeasure`."""


class ModelMeasureConformance(Conformance):
    """One test per promise of the contract of a measure that is given the run.

    Override the fixture `measure`:

    class TestMine(ModelMeasureConformance):
        @pytest.fixture
        def measure(self):
            return Mine(steps=4)
    """

    checks = CHECKS

    @pytest.fixture
    def measure(self) -> ModelMeasure:
        """The measure under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `measure`")

    @pytest.fixture
    def subject(self, measure: ModelMeasure) -> ModelMeasure:
        """What is held to the promises."""
        return measure
