"""Gradient targets as functions of logits."""

from __future__ import annotations

import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_core.probing.gradient_targets import GRADIENT_TARGETS
from dcam_core.probing.targets import Target
from dcam_core.testing.toy import ToyAdapter

ADAPTER = ToyAdapter()
LOGITS = torch.tensor([[0.0, 1.0, 3.0, -1.0], [2.0, 0.5, 0.0, 1.0]])
IDS = torch.tensor([2, 3])
PHRASE = Target("red star", (0, 1), (2, 3), ("red", "star"))


def _score(name, target=PHRASE, logits=LOGITS, ids=IDS, **parameters):
    for known in GRADIENT_TARGETS:
        objective = known.dcam_gradient_target(name, parameters, target, ADAPTER)
        if objective is not None:
            return float(objective.score(logits, ids)), objective.context
    raise AssertionError(f"nobody answered to {name}")


def test_logit_is_the_mean_or_the_sum_over_the_phrase():
    assert _score("logit") == (2.0, ())
    assert _score("logit", reduction="sum") == (4.0, ())


def test_log_probability_of_a_phrase():
    expected = LOGITS.log_softmax(-1)[[0, 1], IDS]
    assert _score("log-probability")[0] == pytest.approx(float(expected.mean()))
    assert _score("log-probability", reduction="sum")[0] == pytest.approx(float(expected.sum()))


def test_contrast_with_the_runner_up():
    # 3 against 1, and 1 against 2: the runner-up is the best *other* token, even if it leads.
    assert _score("contrast")[0] == pytest.approx((3 - 1 + 1 - 2) / 2)


def test_contrast_ignores_suppressed_tokens():
    logits = LOGITS.clone()
    logits[0, 1] = -torch.inf
    assert _score("contrast", logits=logits)[0] == pytest.approx((3 - 0 + 1 - 2) / 2)


def test_contrast_with_a_word():
    token = ADAPTER.tokenizer("moon")["input_ids"][0]
    logits = torch.randn(1, 30)
    target = Target("star", (0,), (5,), ("star",))
    found = _score("contrast", target=target, logits=logits, ids=torch.tensor([5]), against="moon")[0]
    assert found == pytest.approx(float(logits[0, 5] - logits[0, token]))


@pytest.mark.parametrize("word", ["zebra", "red circle"])
def test_a_word_of_another_length_cannot_be_contrasted_with(word):
    target = Target("star", (0,), (5,), ("star",))
    with pytest.raises(ConfigurationError, match="choose another word"):
        _score("contrast", target=target, against=word)


def test_vocabulary_contrast_reads_the_distractor_and_survives_suppression():
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.5, 1.0]])
    target = Target("star", (3,), (0,), ("star",))
    found = _score("vocabulary-contrast", target=target, logits=logits, ids=torch.tensor([0]), distractor=1)
    assert found == (pytest.approx(3.0 - 2.0), (1,))


def test_scores_can_be_differentiated():
    for name in ("logit", "log-probability", "contrast"):
        logits = LOGITS.clone().requires_grad_()
        for known in GRADIENT_TARGETS:
            if (objective := known.dcam_gradient_target(name, {}, PHRASE, ADAPTER)) is not None:
                objective.score(logits, IDS).backward()
        assert logits.grad.abs().sum() > 0
