"""The masked-diffusion sampler: schedules, remasking, stopping, and the record it leaves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dcam_core.denoising import SamplerSettings, decision_logits, denoise
from dcam_core.denoising.remasking import REMASKING
from dcam_core.denoising.schedules import SCHEDULES, tokens_per_step
from dcam_core.denoising.stopping import first_stop
from dcam_core.denoising.trajectory import GIVEN
from dcam_core.errors import ConfigurationError, UnknownNameError
from dcam_core.testing.toy import SPECIAL, WORDS, ToyAdapter

ADAPTER = ToyAdapter()
PICTURE = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
INPUTS = ADAPTER.prepare(PICTURE, "a red star and the moon")


def _expand(text: str) -> list[int]:
    """`2,1x3` -> [2, 1, 1, 1], the way in which the published test vectors are written."""
    counts: list[int] = []
    for part in text.split(","):
        value, _, times = part.partition("x")
        counts += [int(value)] * int(times or 1)
    return counts


@pytest.mark.parametrize(
    ("schedule", "shift", "masked", "steps", "expected"),
    [
        ("shift", 3.0, 64, 32, "1x13,2,1,1,2,2,1,2,2,3,2,2,3,3,4,3,4,5,5,4"),
        ("shift", 1 / 3, 64, 32, "6,5,5,4,3,4,3,2,3,2,3,2,2,1,2,1x17"),
        ("shift", 0.33, 64, 32, "6,5,5,4,4,3,3,3,2,3,2,2,2,1,2,1x17"),
        ("shift", 3.0, 16, 8, "1,1,1,1,2,2,4,4"),
        ("shift", 1 / 3, 16, 8, "5,3,3,1,1,1,1,1"),
        ("cosine", 3.0, 16, 8, "1,2,2,3,4,2,1,1"),
        ("uniform", 3.0, 10, 4, "3,3,2,2"),
        # Dream's timetable: its end at 1e-3 takes one token from the first step and gives it to the last.
        ("timesteps", 3.0, 12, 12, "0,1x10,2"),
    ],
)
def test_published_schedules(schedule, shift, masked, steps, expected):
    chosen = SamplerSettings(answer_length=masked, steps=steps, schedule=schedule, shift=shift)
    assert tokens_per_step(masked, chosen) == _expand(expected)


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(0, 60),
    st.integers(1, 40),
    st.sampled_from([0.1, 1 / 3, 1.0, 3.0, 8.0]),
)
def test_schedules_commit_every_token_once(schedule, masked, steps, shift):
    chosen = SamplerSettings(answer_length=max(masked, 1), steps=steps, schedule=schedule, shift=shift)
    counts = tokens_per_step(masked, chosen)
    assert sum(counts) == masked
    assert all(count >= 0 for count in counts)
    assert len(counts) <= steps


def test_first_stop_takes_the_earliest_complete_occurrence():
    ids = torch.tensor([5, 7, 5, 8, 9])
    assert first_stop(ids, [(5, 8), (9,)]) == 2
    assert first_stop(ids, [(9, 5)]) is None
    assert first_stop(ids, [(), (1, 2, 3, 4, 5, 6)]) is None


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.sampled_from([1, 2, 4]),
    steps_per_block=st.integers(1, 4),
    remasking=st.sampled_from(sorted(REMASKING)),
    temperature=st.sampled_from([0.0, 0.7]),
    guidance=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 5),
)
def test_record_tells_what_happened(blocks, steps_per_block, remasking, temperature, guidance, seed):
    chosen = SamplerSettings(
        answer_length=8,
        block_length=8 // blocks,
        steps=steps_per_block * blocks,
        remasking=remasking,
        temperature=temperature,
        guidance_scale=guidance,
        suppressed_ids=(0, 2),  # the mask itself too: then every position must be decided
        seed=seed,
    )
    heard = []
    run = denoise(ADAPTER, INPUTS, chosen, heard.append)
    again = denoise(ADAPTER, INPUTS, chosen)
    assert torch.equal(run.states, again.states)

    assert (run.states[0] == 0).all()
    assert not torch.isin(run.final, torch.tensor([0, 2])).any()
    steps_in_block = min(steps_per_block, 8 // blocks)  # a block with nothing left to decide is left early
    assert run.steps == len(heard) == steps_in_block * blocks
    for step in range(run.steps):
        before, after = run.states[step], run.states[step + 1]
        changed = (before != after).nonzero()[:, 0]
        assert torch.equal(changed, heard[step].committed)
        assert torch.equal(changed, (run.commit_steps == step).nonzero()[:, 0])
        assert (before[changed] == 0).all(), "a committed token was changed"
        # Blocks run from left to right: nothing is decided beyond the block at work.
        assert (changed < (step // steps_in_block + 1) * (8 // blocks)).all()
    assert (run.commit_probabilities > 0).all()
    assert (run.commit_probabilities <= 1).all()


def test_stop_sequence_ends_the_answer():
    free = denoise(ADAPTER, INPUTS, SamplerSettings(answer_length=8))
    stop = int(free.final[3])
    run = denoise(ADAPTER, INPUTS, SamplerSettings(answer_length=8, stop_sequences=((stop,),)))
    first = (run.final == stop).nonzero()[0, 0]
    assert run.answer_length == first
    assert len(run.answer_ids) == first
    assert not (run.answer_ids == 0).any(), "everything before the stop is decided"


def test_a_step_ratio_stands_for_the_steps_of_every_block():
    half = SamplerSettings(answer_length=8, block_length=4, step_ratio=0.5)
    assert half.total_steps == 4
    assert denoise(ADAPTER, INPUTS, half).steps == 4
    # Said in one of two ways: what is named last replaces the other.
    assert half.merged({"steps": 8}).total_steps == 8
    assert half.merged({"steps": 8}).merged({"step_ratio": 0.25}).total_steps == 2


def test_a_draft_stays_and_its_gaps_are_filled():
    chosen = SamplerSettings(answer_length=8, draft_ids=(5, 0, 7), suppressed_ids=(0, 2))
    run = denoise(ADAPTER, INPUTS, chosen)
    assert run.states[0].tolist() == [5, 0, 7, 0, 0, 0, 0, 0]
    assert (run.states[:, [0, 2]] == torch.tensor([5, 7])).all()
    assert run.commit_steps[[0, 2]].tolist() == [GIVEN, GIVEN]
    assert (run.commit_steps[[1, 3, 4, 5, 6, 7]] >= 0).all()
    assert run.steps == 6
    assert run.commit_probabilities.isnan().nonzero()[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize("filters", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 5, "top_p": 0.5}])
def test_filters_leave_only_the_most_probable_tokens(filters):
    # So hot that any token may come.
    hot = SamplerSettings(answer_length=8, temperature=30.0, suppressed_ids=(0,))
    ranks = {}
    for name, chosen in (("free", hot), ("kept", hot.merged(filters))):
        runs = [denoise(ADAPTER, INPUTS, chosen.merged({"seed": seed})) for seed in range(6)]
        ranks[name] = max(_rank(run, position, chosen) for run in runs for position in range(8))
    assert ranks["kept"] < min(filters.get("top_k", 99), ranks["free"])


def _rank(run, position, settings):
    """How many tokens were more probable than the one that was chosen."""
    state = run.states[run.commit_steps[position]]
    with torch.no_grad():
        logits = decision_logits(ADAPTER, INPUTS, state[None], torch.tensor([position]), settings)[0, 0]
    return int((logits > logits[run.final[position]]).sum())


def test_filters_change_the_order_and_not_the_recorded_probability():
    free = SamplerSettings(answer_length=8, remasking="entropy", suppressed_ids=(0, 2))
    run, narrow = (denoise(ADAPTER, INPUTS, free.merged({"top_k": k})) for k in (None, 2))
    first = [int((r.commit_steps == 0).nonzero()[0]) for r in (run, narrow)]
    position = first[1]
    logits = decision_logits(ADAPTER, INPUTS, narrow.states[:1], torch.tensor([position]), free)[0, 0]
    expected = logits.softmax(-1)[narrow.final[position]].detach()
    torch.testing.assert_close(narrow.commit_probabilities[position], expected)


def test_what_the_prompt_alone_decides_is_a_step_of_its_own():
    class Shifted(ToyAdapter):
        def encode_prefix(self, inputs):
            prefix = super().encode_prefix(inputs)
            logits = torch.zeros(1, len(WORDS) + len(SPECIAL))
            logits[0, 9] = 5.0
            return dataclasses.replace(prefix, first_logits=logits)

        def replay(self, inputs, states, positions, prefix=None):
            logits = super().replay(inputs, states, positions, prefix).clone()
            if prefix is not None:
                logits[:, positions == 0] = prefix.first_logits
            return logits

    adapter = Shifted()
    cached = SamplerSettings(answer_length=8, cache="prefix", suppressed_ids=(0, 2), schedule="timesteps")
    run = denoise(adapter, INPUTS, cached)
    assert run.final[0] == 9
    assert run.commit_steps[0] == 0
    assert (run.states[1] != 0).sum() == 1
    assert (run.commit_steps[1:] > 0).all()
    assert run.steps == 1 + 8


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    denoise(ADAPTER, INPUTS, SamplerSettings(answer_length=8, temperature=1.0, remasking="random"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 3}, "does not divide"),
        ({"block_length": 4, "steps": 3}, "not a multiple"),
        ({"answer_length": 0}, "at least 1"),
        ({"temperature": -1}, "0 or more"),
        ({"shift": 0.0}, "above 0"),
        ({"stepz": 3}, "unknown sampler setting 'sampler.stepz'"),
        ({"steps": "many"}, "sampler.steps is 'many'"),
        ({"steps": 2.5}, "sampler.steps is 2.5"),
        ({"step_ratio": 0.01}, "leaves no step for a block of 8 tokens"),
        ({"step_ratio": "x"}, "sampler.step_ratio is 'x', which is not a float"),
        ({"steps": 4, "step_ratio": 0.5}, "give one of them"),
        ({"draft_ids": range(9)}, "holds 9 ids"),
        ({"top_k": 0}, "sampler.top_k is 0"),
        ({"top_p": 0}, "sampler.top_p is 0"),
        ({"prompt_interval": 0}, "intervals of at least 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        SamplerSettings(answer_length=8).merged(changes)


@pytest.mark.parametrize("changes", [{"remasking": "lowest"}, {"schedule": "fast"}])
def test_unknown_rules_list_what_there_is(changes):
    with pytest.raises(UnknownNameError, match="there are"):
        denoise(ADAPTER, INPUTS, SamplerSettings(answer_length=8, **changes))
