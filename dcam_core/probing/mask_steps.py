"""Mask-step policies: which recorded state is replayed to explain a word.

A denoising run leaves one state per step. A word can be explained at the state by which it was decided,
at any other recorded state, or at a state that never occurred but that the model can always be asked
about. Each policy is a plugin of the hook `dcam_mask_step`; a user's own plugin is asked first. The engine
refuses a step that is not structurally valid, whichever plugin chose it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dcam_core.denoising.trajectory import GIVEN, NEVER_COMMITTED, Trajectory
from dcam_core.errors import ConfigurationError, StructuralValidityError, TargetError
from dcam_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.probing.targets import Target

__all__ = ["MASK_STEPS", "MaskStepPolicy", "ProbeState"]


@dataclass(frozen=True, eq=False)
class ProbeState:
    """A state of the answer region to replay, and the positions to read in it.

    Attributes:
        ids: [G] int64 on the CPU, the answer region as the model reads it.
        positions: the answer positions whose logits are differentiated.
        step: the denoising step that read this state; None if no step did.
        conditioning: what the model is handed besides the ids, as in `Trajectory.conditioning`. None: what the step
            was handed; without a step, nothing.
    """

    ids: Tensor
    positions: tuple[int, ...]
    step: int | None
    conditioning: Any = None


class MaskStepPolicy(ABC):
    """A mask-step policy: a plugin that answers `dcam_mask_step` when it is asked for by its name."""

    policy: ClassVar[str]

    @abstractmethod
    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The states to replay for a target; their maps are averaged, weighted by positions read."""

    @hookimpl(trylast=True)
    def dcam_mask_step(
        self, policy: str | int, target: Target, trajectory: Trajectory, adapter: Adapter
    ) -> Sequence[ProbeState] | None:
        """Answer if this policy is the one asked for."""
        return self.states(target, trajectory, adapter) if policy == self.policy else None


class Commit(MaskStepPolicy):
    """The state by which each token of the word was decided: the one just before its commit step."""

    policy = "commit"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """One state per distinct commit step among the word's tokens."""
        by_step = _grouped(target.positions, [int(trajectory.commit_steps[p]) for p in target.positions])
        if GIVEN in by_step:
            raise TargetError(
                f"target {target.word!r}: position {by_step[GIVEN][0]} was given in the draft, no denoising step "
                "decided it; use mask_step=infill"
            )
        if NEVER_COMMITTED in by_step:
            raise TargetError(
                f"target {target.word!r}: position {by_step[NEVER_COMMITTED][0]} was never committed during "
                "denoising; use mask_step=infill, or give the sampler more steps"
            )
        return _at(trajectory, by_step)


class First(MaskStepPolicy):
    """The empty answer: what the model saw in the picture before it had written anything.

    Where a family computes the answer part by part, nothing of the word's own part is written.
    """

    policy = "first"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The state before the first step that computed the word's positions: step 0 in most families."""
        return _at(trajectory, _by_steps_of(target, trajectory, 0))


class Last(MaskStepPolicy):
    """The state before the last step: everything but the last tokens is visible, usually the word too."""

    policy = "last"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The state before the last step that computed the word's positions."""
        return _at(trajectory, _by_steps_of(target, trajectory, -1))


class All(MaskStepPolicy):
    """The mean over all structurally valid steps, each read at the positions that it computed."""

    policy = "all"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """Every recorded state whose step is valid."""
        reasons = [adapter.invalid_reason(trajectory, step) for step in range(trajectory.steps)]
        computed = {
            step: [position for position in target.positions if trajectory.computed(step, position)]
            for step, reason in enumerate(reasons)
            if reason is None
        }
        states = _at(trajectory, {step: positions for step, positions in computed.items() if positions})
        if not states:
            reason = next(filter(None, reasons), f"none computed the positions of {target.word!r}")
            raise StructuralValidityError(f"no denoising step can be probed: {reason}")
        return states


class Infill(MaskStepPolicy):
    """The finished answer with only this word undecided again: masked, in most families.

    No step of the run need have read it, but it is a state that the model can always be asked about. Nothing is
    handed to it besides the ids: what a step hands on would tell the word that is hidden.
    """

    policy = "infill"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The final state with the target's positions undecided."""
        ids = adapter.hidden(trajectory.final, target.positions)
        return [ProbeState(ids, target.positions, None)]


class Final(MaskStepPolicy):
    """The finished answer, nothing masked: the word is read where it stands.

    A masked model is not trained to predict a token that it sees, but its logit there is defined; the released
    Diffusion-CAM code differentiates in this state (method spec, D1). No step read this state, so nothing is
    handed to it besides the ids.
    """

    policy = "final"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The state after the last step."""
        return [ProbeState(trajectory.final, target.positions, None)]


class StepNumber:
    """A step by its number, from 0."""

    policy = "a step number"

    @hookimpl(trylast=True)
    def dcam_mask_step(
        self, policy: str | int, target: Target, trajectory: Trajectory, adapter: Adapter
    ) -> Sequence[ProbeState] | None:
        """Answer if the policy is a number."""
        if isinstance(policy, bool) or not (isinstance(policy, int) or policy.lstrip("-").isdecimal()):
            return None
        step = int(policy)
        if not 0 <= step < trajectory.steps:
            raise ConfigurationError(
                f"mask_step {step} was not taken: the run has {trajectory.steps} steps, numbered from 0"
            )
        return [ProbeState(trajectory.states[step], target.positions, step)]


def _grouped(positions: Sequence[int], steps: Sequence[int]) -> dict[int, list[int]]:
    """Step -> the positions that are read there, from one step for each position."""
    by_step: dict[int, list[int]] = defaultdict(list)
    for position, step in zip(positions, steps, strict=True):
        by_step[step].append(position)
    return by_step


def _by_steps_of(target: Target, trajectory: Trajectory, which: int) -> dict[int, list[int]]:
    """Step -> positions, where each is read at the first (0) or the last (-1) step that computed it."""
    steps = {position: trajectory.steps_of(position) for position in target.positions}
    for position, own in steps.items():
        if not own:
            raise TargetError(
                f"target {target.word!r}: no denoising step computed position {position}; use mask_step=infill"
            )
    return _grouped(target.positions, [steps[position][which] for position in target.positions])


def _at(trajectory: Trajectory, by_step: Mapping[int, Sequence[int]]) -> list[ProbeState]:
    """The recorded states of some steps, in order, to be read at some positions each."""
    return [
        ProbeState(trajectory.states[step], tuple(positions), step)
        for step, positions in sorted(by_step.items())
    ]


MASK_STEPS: tuple[MaskStepPolicy | StepNumber, ...] = (
    Commit(),
    First(),
    Last(),
    All(),
    Infill(),
    Final(),
    StepNumber(),
)
"""The policies that come with the core, as plugins."""
