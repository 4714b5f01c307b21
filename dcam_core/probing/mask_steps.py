"""Mask-step policies: which recorded state is replayed to explain a word.

A denoising run leaves one state per step. A word can be explained at the state by which it was decided,
at any other recorded state, or at a state that never occurred but that a masked model can always be asked
about. Each policy is a plugin of the hook `dcam_mask_step`; a user's own plugin is asked first. The engine
refuses a step that is not structurally valid, whichever plugin chose it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
    """

    ids: Tensor
    positions: tuple[int, ...]
    step: int | None


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
        by_step: dict[int, list[int]] = defaultdict(list)
        for position in target.positions:
            by_step[int(trajectory.commit_steps[position])].append(position)
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
        return [
            ProbeState(trajectory.states[step], tuple(positions), step)
            for step, positions in sorted(by_step.items())
        ]


class First(MaskStepPolicy):
    """The fully masked answer: what the model saw in the picture before it had written anything."""

    policy = "first"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The state before step 0."""
        return [ProbeState(trajectory.states[0], target.positions, 0)]


class Last(MaskStepPolicy):
    """The state before the last step: everything but the last tokens is visible, usually the word too."""

    policy = "last"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The state before the last recorded step."""
        step = trajectory.steps - 1
        return [ProbeState(trajectory.states[step], target.positions, step)]


class All(MaskStepPolicy):
    """The mean over all structurally valid steps."""

    policy = "all"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """Every recorded state whose step is valid."""
        reasons = [adapter.invalid_reason(trajectory, step) for step in range(trajectory.steps)]
        states = [
            ProbeState(trajectory.states[step], target.positions, step)
            for step, reason in enumerate(reasons)
            if reason is None
        ]
        if not states:
            raise StructuralValidityError(f"no denoising step can be probed: {reasons[0]}")
        return states


class Infill(MaskStepPolicy):
    """The finished answer with only this word masked again.

    No step of the run need have read it, but it is a state that a masked model can always be asked about.
    """

    policy = "infill"

    def states(self, target: Target, trajectory: Trajectory, adapter: Adapter) -> Sequence[ProbeState]:
        """The final state with the target's positions masked."""
        ids = trajectory.final.clone()
        ids[list(target.positions)] = adapter.mask_token_id
        return [ProbeState(ids, target.positions, None)]


class Final(MaskStepPolicy):
    """The finished answer, nothing masked: the word is read where it stands.

    A model is not trained to predict a token that it sees, but its logit there is defined; the released
    Diffusion-CAM code differentiates in this state (method spec, D1).
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
