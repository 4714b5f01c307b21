"""A word over the denoising: what the model believed of it at every step, and which states tell.

At a step, a word is asked about in the state that the step read: the prompt, and what of the answer stood by then.
As long as the word is undecided that is the recorded state itself, and what the model says of the word there is what
it said during the run. Afterwards the word would be read off where it stands; so it is hidden again, alone, with
the rest as it stood ("infill" at that step). Its probability then always means the same: how far the model expects
this word, from the picture and from the words written so far.

The tokens of a word that were decided at different steps are read in the order in which they were decided, each with
those before it in place and those after it hidden. The product of their probabilities is the word's, by the chain
rule; a word of one token has one state per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_core.errors import ConfigurationError, StructuralValidityError
from dcam_core.plugins.engine_hooks import Decision
from dcam_core.probing.mask_steps import ProbeState
from dcam_core.probing.readings import ask_objective, target_readings
from dcam_core.probing.refining import refine

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.method import Method
    from dcam_core.plugins.engine_hooks import EngineHooks
    from dcam_core.probing.readings import TargetReading
    from dcam_core.probing.targets import Answer, Target
    from dcam_core.refiner import Refiner

__all__ = [
    "choose_steps",
    "decided_at",
    "plan_over_time",
    "probabilities_over_time",
    "refine_over_time",
    "states_at",
]


def choose_steps(
    adapter: Adapter, trajectory: Trajectory, targets: Sequence[Target], at_most: int | None = None
) -> tuple[int, ...]:
    """The steps at which words of a run are asked about, in order.

    Args:
        adapter: the model.
        trajectory: the recorded run.
        targets: words of its answer.
        at_most: how many, evenly spread over those that can be probed; the steps that decided the targets are always
            among them, and may make it a few more. None: all.

    Returns:
        Step numbers from 0, those that are not structurally valid left out. The last is the number of steps taken,
        and stands for the finished answer, which no step read.

    Raises:
        ConfigurationError: `at_most` is less than 2.
        StructuralValidityError: the answer was given and not denoised, or no step can be probed.
    """
    if at_most is not None and at_most < 2:
        raise ConfigurationError(
            f"{at_most} step is too few to show a word over time: ask for at least 2, the first and the finished "
            "answer"
        )
    if not trajectory.steps:
        raise StructuralValidityError(
            "no denoising step wrote this answer, it was given: there is nothing to show over time; leave the given "
            "answer out, or the animation"
        )
    reasons = [adapter.invalid_reason(trajectory, step) for step in range(trajectory.steps)]
    valid = [step for step, reason in enumerate(reasons) if reason is None]
    if not valid:
        raise StructuralValidityError(f"no denoising step can be shown over time: {reasons[0]}")
    there = [*valid, trajectory.steps]
    if at_most is None or at_most >= len(there):
        return tuple(there)
    spread = {there[round(i * (len(there) - 1) / (at_most - 1))] for i in range(at_most)}
    deciding = {int(trajectory.commit_steps[position]) for target in targets for position in target.positions}
    return tuple(step for step in there if step in spread | deciding)


def decided_at(trajectory: Trajectory, target: Target) -> int | None:
    """The step that decided a word's last token; None if a token was given or never decided."""
    steps = trajectory.commit_steps[list(target.positions)]
    return int(steps.max()) if steps.min() >= 0 else None


def states_at(target: Target, trajectory: Trajectory, adapter: Adapter, step: int) -> list[ProbeState]:
    """The states in which a word's tokens are read at one step: one for each step that decided some of them.

    Args:
        target: a word of the answer.
        trajectory: the recorded run.
        adapter: says what an undecided position holds.
        step: a step from 0; the number of steps taken: the finished answer.

    Returns:
        The states, in the order in which the tokens were decided. None where the step's forward pass computed nothing
        at one of the word's undecided positions: the model had not begun to think of the word.
    """
    # What was never decided comes after all that was.
    order = {
        position: trajectory.steps if decided == NEVER_COMMITTED else decided
        for position in target.positions
        for decided in (int(trajectory.commit_steps[position]),)
    }
    undecided = trajectory.undecided(step)
    states = []
    for turn in sorted(set(order.values())):
        read = tuple(position for position in target.positions if order[position] == turn)
        later = [position for position in target.positions if order[position] >= turn]
        if step < trajectory.steps and all(undecided[position] for position in later):
            if not all(trajectory.computed(step, position) for position in read):
                return []
            states.append(ProbeState(trajectory.states[step], read, step))
        else:
            # Nothing but ids: what one step hands to the next would tell the word that is hidden.
            states.append(ProbeState(adapter.hidden(trajectory.states[step], later), read, None))
    return states


def plan_over_time(
    hooks: EngineHooks,
    method: Method,
    adapter: Adapter,
    targets: Sequence[Target],
    trajectory: Trajectory,
    steps: Sequence[int],
) -> list[TargetReading]:
    """What the probe must read to show T targets at S steps.

    Args:
        hooks: asked for the scalar; the states are these.
        method: its mask step is not looked at.
        adapter: the model.
        targets: words of the answer.
        trajectory: the recorded run.
        steps: from `choose_steps`.

    Returns:
        Readings whose `target` is `number of the step * T + number of the target`; none for a target at a step that
        did not compute it.

    Raises:
        ConfigurationError: no plugin knows the method's gradient target.
    """
    scored = [ask_objective(hooks, method, adapter, target, trajectory) for target in targets]
    readings: list[TargetReading] = []
    for number, step in enumerate(steps):
        for index, target in enumerate(targets):
            states = states_at(target, trajectory, adapter, step)
            if states:
                chosen = Decision("dcam_mask_step", states, "over-time", "dcam's own", "core")
                own = number * len(targets) + index
                readings += target_readings(own, target, chosen, scored[index], method, adapter, trajectory)
    return readings


def probabilities_over_time(
    readings: Sequence[TargetReading], log_probabilities: Tensor, steps: int, targets: int
) -> Tensor:
    """[S, T] float32, the probability of each word at each step; NaN where the step did not compute it.

    Args:
        readings: R, from `plan_over_time`.
        log_probabilities: [R] float32 in nats, of the tokens of each.
        steps: S.
        targets: T.
    """
    owners = torch.tensor([item.target for item in readings], dtype=torch.int64)
    total = torch.zeros(steps * targets).index_add_(0, owners, log_probabilities)
    asked = torch.zeros(steps * targets, dtype=torch.bool).index_fill_(0, owners, True)
    return total.exp().clamp(0, 1).where(asked, torch.nan).view(steps, targets)


def refine_over_time(
    raw: Sequence[Tensor],
    steps: int,
    refiners: Sequence[tuple[str, Refiner]],
    trajectory: Trajectory,
    answer: Answer,
    image_size: int,
    pictures: Sequence[Image] = (),
) -> tuple[Tensor, ...]:
    """Refine the maps of every step, on one scale per word over all steps and pictures.

    As with several pictures: refiners see one step at a time and say where in a picture the evidence lies; the raw
    maps say at which step. So a step at which little spoke for a word stays pale beside the others.

    Args:
        raw: one [S * T, H, W] per picture, step after step; T is at least 1.
        steps: S.
        refiners: as in `dcam_core.probing.refining.refine`.
        trajectory: as there.
        answer: as there.
        image_size: as there.
        pictures: as there.

    Returns:
        One [S, T, H, W] in [0, 1] per picture; on a finer grid where a refiner makes it finer.
    """
    in_steps = [part.view(steps, -1, *part.shape[1:]) for part in raw]
    apart = [part[step] for step in range(steps) for part in in_steps]
    refined = refine(apart, refiners, trajectory, answer, image_size, [*pictures] * steps)
    return tuple(torch.stack(refined[number :: len(raw)]) for number in range(len(raw)))
