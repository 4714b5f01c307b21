"""An answer that is given: how it is laid out, what is refused, and another word in the place of one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dcam_core import Explainer
from dcam_core.denoising.given import given_trajectory
from dcam_core.denoising.trajectory import GIVEN, NEVER_COMMITTED
from dcam_core.errors import CheckpointError, StructuralValidityError, TargetError, UsageError
from dcam_core.probing.replacing import replaced
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT = "the blue moon"


def _explain(targets=None, *, adapter=None, mask_step=None, **options):
    explainer = Explainer(adapter or toy_adapter(), "grad-cam", probe_layer=0, mask_step=mask_step)
    return explainer.explain(toy_picture(), PROMPT, targets, **options)


def test_the_text_stands_as_the_model_would_have_left_it():
    adapter = toy_adapter()
    run = given_trajectory(adapter, " a red circle ", adapter.default_sampler)
    assert adapter.tokenizer.convert_ids_to_tokens(run.final.tolist()) == [
        *("a", "red", "circle", "<stop>", "<mask>", "<mask>", "<mask>", "<mask>"),
    ]
    assert run.commit_steps.tolist() == [GIVEN] * 4 + [NEVER_COMMITTED] * 4
    assert (run.steps, run.answer_length, run.settings.suppressed_ids) == (0, 3, ())
    assert read_answer(run.answer_ids, adapter.tokenizer).text == "a red circle"


@pytest.mark.parametrize(("block", "length"), [(None, 11), (4, 12)])
def test_a_long_text_gets_more_room_in_whole_blocks(block, length):
    adapter = toy_adapter()
    settings = dataclasses.replace(adapter.default_sampler, block_length=block, steps=8)
    run = given_trajectory(adapter, "a red circle left of a blue square and moon", settings)
    assert (len(run.final), run.settings.answer_length, run.answer_length) == (length, length, 10)


def test_a_model_without_tokenizer_reads_no_text():
    adapter = toy_adapter()
    adapter.tokenizer = None
    with pytest.raises(CheckpointError, match="no tokenizer"):
        given_trajectory(adapter, "a red circle", adapter.default_sampler)


def test_giving_what_the_model_said_is_infilling_it():
    said = _explain("all", mask_step="infill")
    given = _explain("all", answer=said.answer)
    assert given.answer == said.answer
    assert given.settings["mask_step"] == "infill"
    assert [target.state for target in given.targets] == ["infill"] * len(said.targets)
    assert all(target.last_step is None for target in given.targets)
    # What stands behind the end of the answer differs, so the maps agree only where nothing does.
    if len(said.targets) == given.settings["sampler"]["answer_length"]:
        assert torch.equal(given.raw, said.raw)


@pytest.mark.parametrize(
    ("mask_step", "error"),
    [
        ("commit", TargetError),
        ("first", TargetError),
        ("last", TargetError),
        ("all", StructuralValidityError),
    ],
)
def test_a_step_that_was_chosen_cannot_be_had(mask_step, error):
    with pytest.raises(error):
        _explain(["red"], answer="a red circle", mask_step=mask_step)
    assert _explain(["red"], answer="a red circle", mask_step="final").targets[0].state == "final"


def test_a_word_that_the_sampler_may_not_say_can_be_explained():
    adapter = toy_adapter()
    red = adapter.tokenizer.convert_tokens_to_ids("red")
    explainer = Explainer(
        adapter, "grad-cam", probe_layer=0, overrides={"sampler": {"suppressed_ids": [red]}}
    )
    target = explainer.explain(toy_picture(), PROMPT, ["red"], answer="a red circle").targets[0]
    assert 0 < target.probability < 1


# -- another word in the place of one --------------------------------------------------------------------------


def test_why_not_this_word():
    found = _explain(["circle#2"], answer="a red circle and a circle", why_not="blue square")
    assert found.answer == "a red circle and a blue square"
    assert (found.targets[0].word, found.targets[0].positions) == ("blue square", (5, 6))
    assert found.settings["in_place_of"] == "circle"
    assert found.settings["said"] == "a red circle and a circle"


def test_why_not_another_word_than_the_model_said():
    said = _explain(["@1"], mask_step="infill")
    word = said.targets[0].word
    found = _explain(["@1"], why_not="moon")
    assert found.settings["in_place_of"] == word
    assert found.targets[0].positions == (1,)
    assert found.targets[0].probability < 1
    assert found.steps == ()


@pytest.mark.parametrize(
    ("targets", "words", "message"),
    [
        (
            None,
            "square",
            "the targets are none: name one of the answer, whose words are a, red, circle, and$",
        ),
        (["circle"], "square", "'circle' at @2, 'circle' at @5: name one, 'circle#1' or 'circle#2'$"),
        (["red", "@5", "red circle"], "square", ": name one, 'red' or 'circle#2' or 'red circle'$"),
        (["red"], " ", "holds no word"),
    ],
)
def test_what_cannot_be_replaced_is_refused(targets, words, message):
    with pytest.raises(TargetError, match=message):
        _explain(targets, answer="a red circle and a circle", why_not=words)


def test_only_whole_words_are_replaced():
    adapter = toy_adapter()
    ids = given_trajectory(adapter, "a red circle", adapter.default_sampler).answer_ids
    answer = read_answer(ids, adapter.tokenizer)
    (target,) = select_targets(answer, ["red"])
    with pytest.raises(TargetError, match="whole words"):
        replaced(answer, [dataclasses.replace(target, positions=(7,))], "blue")


def test_an_unknown_word_is_refused_with_its_name():
    with pytest.raises(UsageError, match="'purple'"):
        _explain(["red"], answer="a red circle", why_not="purple")
