"""What the engine asks of a family whose answer is not made of mask tokens, with a toy that has none."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from dcam_core.conformance import Subject
from dcam_core.conformance.check import NotApplicableError
from dcam_core.denoising import Decider, SamplerSettings
from dcam_core.denoising.trajectory import GIVEN, NEVER_COMMITTED, Trajectory
from dcam_core.errors import ConfigurationError, StructuralValidityError, TargetError
from dcam_core.explainer import Explainer
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.mask_steps import MASK_STEPS, ProbeState
from dcam_core.probing.probe import probe
from dcam_core.probing.replayed import Reading
from dcam_core.probing.targets import Target
from dcam_core.results.record import BLANK, step_texts
from dcam_core.testing.toy import ToyAdapter, toy_picture


class Unmasked(ToyAdapter):
    """Random tokens in place of masks; a step is handed a number that is added to all logits of token 5."""

    @property
    def mask_token_id(self):
        return None

    def replay(self, inputs, states, positions, prefix=None, conditioning=None):
        self.handed = conditioning
        logits = super().replay(inputs, states, positions, prefix).clone()
        for row, number in enumerate(conditioning or ()):
            if number is not None:
                logits[row, :, 5] += number
        return logits


@pytest.fixture
def adapter():
    return Unmasked()


@pytest.fixture
def inputs(adapter):
    return adapter.prepare(toy_picture(), "the red circle")


def trajectory(**changes):
    """Four steps over two windows of two positions each; position 1 changes twice."""
    states = torch.tensor([[7, 8, 9, 10], [4, 8, 9, 10], [4, 5, 9, 10], [4, 5, 6, 11], [4, 5, 6, 3]])
    return Trajectory(
        **{
            "states": states,
            "commit_steps": torch.tensor([0, 1, 2, 3]),
            "commit_logits": torch.zeros(4),
            "commit_probabilities": torch.full((4,), 0.5),
            "answer_length": 4,
            "settings": SamplerSettings(answer_length=4),
            "conditioning": (None, 1.5, None, 2.5),
            "windows": torch.tensor([[0, 2], [0, 2], [2, 4], [2, 4]]),
            **changes,
        }
    )


# -- the trajectory ------------------------------------------------------------------------------------------


def test_undecided_follows_the_commit_steps():
    run = trajectory(commit_steps=torch.tensor([GIVEN, NEVER_COMMITTED, 0, 2]))
    assert [run.undecided(step).tolist() for step in (0, 1, 3)] == [
        [False, True, True, True],
        [False, True, False, True],
        [False, True, False, False],
    ]


def test_windows_say_which_steps_computed_a_position():
    run = trajectory()
    assert [list(run.steps_of(position)) for position in range(4)] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert (run.computed(1, 1), run.computed(1, 2)) == (True, False)
    everywhere = trajectory(windows=None, conditioning=None)
    assert list(everywhere.steps_of(3)) == [0, 1, 2, 3]
    assert everywhere.computed(0, 3)
    assert everywhere.conditioning_of(1) is None
    assert run.conditioning_of(1) == 1.5


def test_texts_blank_what_is_not_decided_yet_whatever_stands_there(adapter):
    texts = step_texts(adapter, trajectory())
    blanks = [[word == BLANK for word in text.split(" ")] for text in texts]
    assert blanks == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, False, True],
        [False, False, False, False],
    ]


# -- hidden positions and the sampler ------------------------------------------------------------------------


def test_a_family_without_mask_token_must_say_what_is_hidden_and_how_it_samples(adapter, inputs):
    with pytest.raises(ConfigurationError, match=r"toy has no mask token.*must override `hidden`"):
        adapter.hidden(torch.arange(4), [1])
    with pytest.raises(ConfigurationError, match=r"toy has no mask token.*must override `denoise`"):
        adapter.denoise(inputs, adapter.default_sampler)


def test_hidden_puts_mask_tokens_where_there_are_any():
    ids = torch.arange(5, 9)
    assert ToyAdapter().hidden(ids, (1, 3)).tolist() == [5, 0, 7, 0]
    assert ids.tolist() == [5, 6, 7, 8]


def test_suppressed_ids_are_suppressed_at_every_position_where_all_may_change_again(adapter, inputs):
    settings = SamplerSettings(answer_length=4, suppressed_ids=(2, 6))
    logits = Decider(adapter, inputs, settings).logits(torch.tensor([[0, 5, 6, 7]]), torch.arange(4))
    assert bool((logits[..., [2, 6]] == -torch.inf).all())
    masked = Decider(ToyAdapter(), inputs, settings).logits(torch.tensor([[0, 5, 6, 7]]), torch.arange(4))
    assert (masked[0, :, 2] == -torch.inf).tolist() == [True, False, False, False]


# -- conditioning --------------------------------------------------------------------------------------------


def test_conditioning_reaches_the_adapter_only_where_there_is_one(adapter, inputs):
    decider = Decider(adapter, inputs, SamplerSettings(answer_length=4))
    states, where = torch.tensor([[1, 2, 3, 4]] * 2), torch.tensor([0])
    plain = decider.logits(states, where, [None, None])
    assert adapter.handed is None
    handed = decider.logits(states, where, [None, 3.0])
    assert adapter.handed == [None, 3.0]
    assert torch.equal(handed[0], plain[0])
    assert (handed[1, 0, 5] - plain[1, 0, 5]).item() == pytest.approx(3.0, abs=1e-5)
    # A family that knows nothing of it never hears of it.
    Decider(ToyAdapter(), inputs, SamplerSettings(answer_length=4)).logits(states, where, [None, None])


def test_the_probe_keeps_states_apart_that_share_ids_but_not_conditioning(adapter, inputs):
    objective = GradientTarget(lambda logits, ids: logits[0, 5])
    state, given = torch.tensor([1, 2, 3, 4]), 4.0
    readings = [Reading(state, (0,), (5,), objective, handed) for handed in (None, given, None, given)]
    where = inputs.views[0].positions.flatten()
    found = list(probe(adapter, inputs, "blocks.0", readings, where, SamplerSettings(answer_length=4)))
    scores = dict(zip(*(found[0].readings, found[0].scores.tolist()), strict=True))
    assert len(adapter.handed) == 2
    assert scores[1] == scores[3] == pytest.approx(scores[0] + 4.0, abs=1e-5)
    assert scores[2] == scores[0]


# -- which step ----------------------------------------------------------------------------------------------


def states_of(policy, run, positions, adapter):
    target = Target("word", positions, tuple(int(run.final[p]) for p in positions), ("w",) * len(positions))
    for hook in MASK_STEPS:
        states = hook.dcam_mask_step(policy=policy, target=target, trajectory=run, adapter=adapter)
        if states is not None:
            return [(state.step, state.positions) for state in states]
    return None


def test_a_word_over_two_windows_is_read_in_each_of_them(adapter):
    run = trajectory()
    assert states_of("commit", run, (1, 2), adapter) == [(1, (1,)), (2, (2,))]
    assert states_of("first", run, (1, 2), adapter) == [(0, (1,)), (2, (2,))]
    assert states_of("last", run, (1, 2), adapter) == [(1, (1,)), (3, (2,))]
    assert states_of("all", run, (1, 2), adapter) == [(0, (1,)), (1, (1,)), (2, (2,)), (3, (2,))]
    with pytest.raises(TargetError, match="no denoising step computed position 3"):
        states_of("first", trajectory(windows=torch.tensor([[0, 2]] * 4)), (3,), adapter)
    with pytest.raises(StructuralValidityError, match="none computed the positions of 'word'"):
        states_of("all", trajectory(windows=torch.tensor([[0, 2]] * 4)), (3,), adapter)


class Recorded(Unmasked):
    """Always the same run."""

    def denoise(self, inputs, settings, on_step=None):
        return trajectory(settings=settings)


@pytest.mark.parametrize(
    ("state", "handed"),
    [
        (ProbeState(trajectory().states[1], (1,), 1), [1.5]),
        (ProbeState(trajectory().states[1], (1,), None), None),
        (ProbeState(trajectory().states[1], (1,), 1, conditioning=9.0), [9.0]),
    ],
)
def test_a_state_of_a_step_carries_what_the_step_was_handed(state, handed):
    adapter = Recorded()
    explainer = Explainer(adapter, mask_step=lambda: [state], overrides={"sampler": {"answer_length": 4}})
    explainer.explain(toy_picture(), "the red circle", targets=[1], baselines=())
    assert adapter.handed == handed


def test_a_step_that_computed_nothing_there_is_refused():
    explainer = Explainer(Recorded(), overrides={"mask_step": 3, "sampler": {"answer_length": 4}})
    with pytest.raises(
        StructuralValidityError, match=r"step 3 computed nothing at answer position 1.*steps 0 to 1 did"
    ):
        explainer.explain(toy_picture(), "the red circle", targets=[1], baselines=())


# -- settings of a family's own ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnSettings(SamplerSettings):
    patience: int | None = None
    bound: float = 0.5
    names: tuple[str, ...] = ()

    unused: ClassVar[frozenset[str]] = frozenset({"temperature", "remasking"})


def test_settings_of_a_subclass_are_merged_and_recorded():
    settings = OwnSettings(answer_length=6).merged(
        {"patience": "3", "bound": 1, "names": ["a", "b"], "seed": 4, "temperature": None}
    )
    assert type(settings) is OwnSettings
    assert (settings.patience, settings.bound, settings.names, settings.seed) == (3, 1.0, ("a", "b"), 4)
    recorded = settings.as_dict()
    assert recorded["bound"] == 1.0
    assert "temperature" not in recorded
    assert SamplerSettings().as_dict() == dataclasses.asdict(SamplerSettings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temperature": 0.5},
            "sampler.temperature means nothing to this model's sampler: it has .*bound, cache",
        ),
        ({"patience": "long"}, "sampler.patience is 'long', which is not a int"),
        ({"names": 3}, "sampler.names is 3, which is not a tuple"),
        ({"bounds": 3}, "unknown sampler setting 'sampler.bounds'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        OwnSettings().merged(changes)


def test_shortened_settings_write_a_short_answer_in_one_block():
    short = SamplerSettings(answer_length=64, block_length=32, step_ratio=0.5).shortened(16)
    assert (short.answer_length, short.blocks, short.total_steps) == (16, 1, 16)


def test_conformance_does_not_examine_settings_that_a_family_does_not_have():
    class Own(ToyAdapter):
        default_sampler = OwnSettings(answer_length=8)

    with pytest.raises(NotApplicableError, match="toy has no sampler setting temperature"):
        Subject(Own()).run({"temperature": 0.7})
