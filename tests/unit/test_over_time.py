"""Words over the denoising: which states tell, exact replay, one scale, what is kept, and the animation."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
import torch
from PIL import Image

from dcam_core import Explainer, load_explanation
from dcam_core.denoising.trajectory import GIVEN
from dcam_core.errors import ConfigurationError, DcamError, StructuralValidityError, UsageError
from dcam_core.probing.over_time import choose_steps, decided_at, states_at
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.results.report.animation import render_animation
from dcam_core.results.report.html import render_fragment, render_report
from dcam_core.testing.toy import ToyAdapter

PICTURE = Image.linear_gradient("L").rotate(30).resize((40, 30)).convert("RGB")
PROMPT = "the blue moon"


def explainer(*overrides, adapter=None, method="grad-cam"):
    return Explainer(adapter or ToyAdapter(), method, overrides=("probe_layer=0", *overrides))


def ran(adapter):
    """A recorded run of the toy with all words of its answer."""
    with torch.no_grad():
        inputs = adapter.prepare(PICTURE, PROMPT)
        trajectory = adapter.denoise(inputs, adapter.default_sampler)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    return inputs, trajectory, answer, select_targets(answer, None)


@pytest.fixture(scope="module")
def run():
    adapter = ToyAdapter()
    return adapter, *ran(adapter)


@pytest.fixture(scope="module")
def explanation():
    return explainer("mask_step=commit").explain(PICTURE, PROMPT, "all", baselines=(), over_time=True)


def test_at_its_commit_step_a_word_is_what_the_run_recorded(explanation):
    """Exact replay: the same probability as the sampler's, the same raw map as the commit policy's."""
    over_time = explanation.over_time
    assert over_time.steps == tuple(range(over_time.taken + 1))
    assert over_time.probabilities.shape == (len(over_time.steps), len(explanation.targets))
    for index, target in enumerate(explanation.targets):
        assert len(set(target.commit_steps)) == 1, "the toy has a token per word"
        assert over_time.commit_steps[index] == target.last_step
        at = over_time.steps.index(target.last_step)
        assert float(over_time.probabilities[at, index]) == pytest.approx(target.probability, abs=1e-5)
        torch.testing.assert_close(over_time.raw[at, index], explanation.raw[index], atol=1e-6, rtol=1e-4)


def test_the_finished_answer_is_the_infill_of_each_word(explanation):
    infill = explainer("mask_step=infill").explain(PICTURE, PROMPT, "all", baselines=())
    last = explanation.over_time.probabilities[-1].tolist()
    assert last == pytest.approx([target.replayed_probability for target in infill.targets], abs=1e-5)
    torch.testing.assert_close(explanation.over_time.raw[-1], infill.raw, atol=1e-6, rtol=1e-4)


def test_a_word_is_read_in_the_recorded_state_and_once_it_stands_with_it_alone_hidden(run):
    adapter, _, trajectory, _, targets = run
    target = next(item for item in targets if 0 < decided_at(trajectory, item) < trajectory.steps - 1)
    commit = decided_at(trajectory, target)
    for step in range(trajectory.steps + 1):
        (state,) = states_at(target, trajectory, adapter, step)
        assert state.positions == target.positions
        assert state.step == (step if step <= commit else None)
        differs = (state.ids != trajectory.states[step]).nonzero().flatten().tolist()
        assert differs == ([] if step <= commit else list(target.positions))


def test_tokens_decided_apart_are_read_one_given_the_other(run):
    adapter, _, trajectory, _, targets = run
    first, second = sorted(targets, key=lambda item: decided_at(trajectory, item))[:2]
    early, late = decided_at(trajectory, first), decided_at(trajectory, second)
    assert early < late
    both = dataclasses.replace(
        first,
        positions=first.positions + second.positions,
        token_ids=first.token_ids + second.token_ids,
        tokens=first.tokens + second.tokens,
    )
    for step in (early, late, trajectory.steps):
        alone, given = states_at(both, trajectory, adapter, step)
        assert (alone.positions, given.positions) == (first.positions, second.positions)
        hidden = adapter.hidden(trajectory.states[step], both.positions)
        assert torch.equal(alone.ids, hidden), "the first token does not see the second"
        assert torch.equal(given.ids, adapter.hidden(trajectory.states[step], second.positions))
    assert states_at(both, trajectory, adapter, late)[1].step == late


def test_a_given_token_is_always_hidden_and_has_no_commit_step(run):
    adapter, _, trajectory, _, targets = run
    commits = trajectory.commit_steps.clone()
    commits[list(targets[0].positions)] = GIVEN
    drafted = dataclasses.replace(trajectory, commit_steps=commits)
    assert decided_at(drafted, targets[0]) is None
    assert [state.step for state in states_at(targets[0], drafted, adapter, 0)] == [None]


def test_a_step_that_did_not_compute_a_word_says_nothing_of_it(run):
    adapter, inputs, trajectory, answer, targets = run
    windows = torch.tensor([[0, trajectory.final.numel()]]).repeat(trajectory.steps, 1)
    target = max(targets, key=lambda item: decided_at(trajectory, item))
    windows[0] = torch.tensor([target.positions[0] + 1, trajectory.final.numel()])
    parts = dataclasses.replace(trajectory, windows=windows)
    found = explainer(adapter=adapter).over_time(inputs, parts, answer, (target,))
    assert found.probabilities[:, 0].isnan().tolist() == [True] + [False] * trajectory.steps
    assert not found.raw[0].any()


def test_the_maps_of_a_word_have_one_scale_over_the_steps(explanation):
    """Whatever the refiners do with a step, it stands no higher than its raw map among those of all steps."""
    over_time = explanation.over_time
    low = over_time.raw.amin((0, 2, 3), keepdim=True)
    scaled = (over_time.raw - low) / (over_time.raw - low).amax((0, 2, 3), keepdim=True)
    heights, allowed = over_time.maps.amax((2, 3)), scaled.amax((2, 3))
    assert (heights <= allowed + 1e-5).all()
    torch.testing.assert_close(heights.amax(0), torch.ones(len(explanation.targets)))
    assert (heights.amin(0) < 0.95).any(), "steps differ"


def test_some_steps_are_evenly_spread_with_those_that_decided(run):
    adapter, _, trajectory, _, targets = run
    commit = decided_at(trajectory, targets[-1])
    chosen = choose_steps(adapter, trajectory, targets[-1:], 3)
    assert set(chosen) == {0, round(trajectory.steps / 2), trajectory.steps, commit}
    assert list(chosen) == sorted(chosen)
    assert choose_steps(adapter, trajectory, targets, 1000) == tuple(range(trajectory.steps + 1))
    with pytest.raises(ConfigurationError, match="1 step is too few"):
        choose_steps(adapter, trajectory, targets, 1)


def test_steps_that_cannot_be_probed_are_left_out(run):
    _, _, trajectory, _, targets = run
    adapter = ToyAdapter()
    adapter.invalid_reason = lambda trajectory, step: "served from a cache" if step % 2 else None
    shown = choose_steps(adapter, trajectory, targets)
    assert [step for step in shown[:-1] if step % 2] == []
    assert shown[-1] == trajectory.steps
    adapter.invalid_reason = lambda trajectory, step: "served from a cache"
    with pytest.raises(StructuralValidityError, match="no denoising step can be shown over time: served"):
        choose_steps(adapter, trajectory, targets)


def test_an_answer_that_was_given_has_nothing_over_time():
    with pytest.raises(StructuralValidityError, match="no denoising step wrote this answer"):
        explainer().explain(PICTURE, PROMPT, "all", answer="a red circle", baselines=(), over_time=True)


def test_it_is_saved_and_comes_back(explanation, tmp_path):
    changed = explanation.over_time.probabilities.clone()
    changed[0, 0] = torch.nan
    kept = dataclasses.replace(
        explanation, over_time=dataclasses.replace(explanation.over_time, probabilities=changed)
    )
    back = load_explanation(kept.save(tmp_path / "kept")).over_time
    for name in ("steps", "taken", "texts", "commit_steps"):
        assert getattr(back, name) == getattr(kept.over_time, name)
    assert torch.equal(back.raw, kept.over_time.raw)
    assert torch.equal(back.maps, kept.over_time.maps)
    torch.testing.assert_close(back.probabilities, changed, rtol=0, atol=0, equal_nan=True)
    facts = json.loads((tmp_path / "kept/explanation.json").read_text())
    assert facts["over_time"]["probabilities"][0][0] is None
    for target in facts["targets"]:
        assert (tmp_path / "kept" / target["animation"]).read_bytes().startswith(b"GIF89a")
    (tmp_path / "kept/over-time.safetensors").unlink()
    with pytest.raises(DcamError, match=r"has no over-time\.safetensors"):
        load_explanation(tmp_path / "kept")


def test_without_it_nothing_of_it_is_saved(explanation, tmp_path):
    folder = dataclasses.replace(explanation, over_time=None).save(tmp_path / "plain")
    assert load_explanation(folder).over_time is None
    assert not list(folder.glob("over-time*"))
    assert "over_time" not in json.loads((folder / "explanation.json").read_text())
    assert "Over the denoising" not in (folder / "report.html").read_text()
    with pytest.raises(UsageError, match="nothing over time"):
        load_explanation(folder).to_gif(0, tmp_path / "none.gif")


def test_what_does_not_fit_is_refused(explanation):
    over_time = explanation.over_time
    for changes, complaint in (
        ({"taken": 99}, "they must ascend from 0 or more to 99"),
        ({"texts": over_time.texts[1:]}, "give one text per step"),
        ({"probabilities": over_time.probabilities + 1}, "not in"),
        ({"commit_steps": over_time.commit_steps[1:]}, "give one text per step"),
    ):
        with pytest.raises(DcamError, match=complaint):
            dataclasses.replace(over_time, **changes)
    with pytest.raises(DcamError, match="the explanation has"):
        dataclasses.replace(
            explanation, targets=explanation.targets[:1], over_time=over_time, pictures=_first(explanation)
        )


def _first(explanation):
    """The pictures of an explanation with the maps of its first target alone."""
    return tuple(
        dataclasses.replace(part, raw=part.raw[:1], maps=part.maps[:1]) for part in explanation.pictures
    )


def test_the_animation_has_a_frame_per_step_and_rests_at_the_end(explanation):
    made = render_animation(explanation, 0)
    assert made == render_animation(explanation, 0)
    with Image.open(io.BytesIO(made)) as animation:
        steps = len(explanation.over_time.steps)
        assert (animation.format, animation.info["loop"], animation.n_frames) == ("GIF", 0, steps)
        frames, durations = [], []
        for number in range(steps):
            animation.seek(number)
            durations.append(animation.info["duration"])
            frames.append(animation.convert("RGB").tobytes())
    assert durations == [*durations[:1] * (steps - 1), 3000]
    assert len(set(frames)) == steps, "every step looks different: the number alone tells"


def test_an_animation_of_several_pictures_and_any_script(explanation):
    parts = explanation.pictures * 2
    over_time = dataclasses.replace(explanation.over_time, pictures=explanation.over_time.pictures * 2)
    words = tuple(
        dataclasses.replace(word, text=explanation.answer[word.start : word.stop])
        for word in explanation.words
    )
    target = dataclasses.replace(explanation.targets[0], word="日本 \U0001f9ff " + "long" * 40)
    two = dataclasses.replace(
        explanation,
        pictures=parts,
        over_time=over_time,
        words=words,
        targets=(target, *explanation.targets[1:]),
    )
    with Image.open(io.BytesIO(render_animation(two, 0))) as animation:
        assert animation.width == 480


def test_the_report_carries_a_small_map_per_step_and_the_picture_once(explanation):
    page = render_report(explanation)
    count = len(explanation.over_time.steps) * len(explanation.targets)
    assert page.count('class="frame"') == count
    plain = render_report(dataclasses.replace(explanation, over_time=None))
    assert len(page) - len(plain) < 20_000 + 800 * count
    fragment = render_fragment(explanation)
    assert 'type="range" min="0" max=' not in fragment.partition("over-time")[2], "a notebook runs no script"


def test_evidence_is_the_sum_of_what_spoke_for_a_word(explanation):
    evidence = explanation.over_time.evidence
    assert evidence.shape == explanation.over_time.probabilities.shape
    assert math.isclose(float(evidence[0, 0]), float(explanation.over_time.raw[0, 0].sum()), rel_tol=1e-5)
