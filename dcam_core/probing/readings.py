"""Ask the deciding hooks, for every target: which states to replay, and what to differentiate there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcam_core.errors import ConfigurationError, StructuralValidityError
from dcam_core.probing.answers import gradient_target, probe_states
from dcam_core.probing.gradient_targets import GRADIENT_TARGETS
from dcam_core.probing.mask_steps import MASK_STEPS
from dcam_core.probing.replayed import Reading

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.method import Method
    from dcam_core.plugins.engine_hooks import Decision, EngineHooks
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.probing.targets import Target

__all__ = ["TargetReading", "ask_objective", "plan_readings", "target_readings"]


@dataclass(frozen=True, eq=False)
class TargetReading:
    """A reading, with the target that it belongs to.

    Attributes:
        target: index of the target.
        weight: share of this reading in the target's map; the weights of a target sum to 1.
        step: the denoising step that read the state; None if no step did.
        reading: what the probe must do.
        states_from: who chose the state.
        score_from: who chose the scalar.
        remark: what the reader should know about the replay; empty if it repeats what the step computed.
    """

    target: int
    weight: float
    step: int | None
    reading: Reading
    states_from: Decision
    score_from: Decision
    remark: str = ""


def plan_readings(
    hooks: EngineHooks,
    method: Method,
    adapter: Adapter,
    targets: Sequence[Target],
    trajectory: Trajectory,
) -> list[TargetReading]:
    """What the probe must read to explain some targets of a recorded run.

    Raises:
        ConfigurationError: no plugin knows the method's mask step or gradient target.
        StructuralValidityError: a step was chosen that cannot be probed.
        PluginError: a plugin's answer does not fit the run.
    """
    readings = []
    for index, target in enumerate(targets):
        chosen = _ask_states(hooks, method, adapter, target, trajectory)
        scored = ask_objective(hooks, method, adapter, target, trajectory)
        readings += target_readings(index, target, chosen, scored, method, adapter, trajectory)
    return readings


def target_readings(
    index: int,
    target: Target,
    states_from: Decision,
    score_from: Decision,
    method: Method,
    adapter: Adapter,
    trajectory: Trajectory,
) -> list[TargetReading]:
    """One reading for every state in which a target is read.

    Args:
        index: the `target` of the readings.
        target: a word of the answer.
        states_from: the states, and who chose them.
        score_from: the scalar, and who chose it.
        method: says what is done with a step that cannot be probed.
        adapter: the model.
        trajectory: the recorded run.

    Raises:
        StructuralValidityError: a step was chosen that cannot be probed.
        PluginError: an answer does not fit the run.
    """
    states = probe_states(states_from, target, trajectory)
    objective = gradient_target(score_from, target, trajectory)
    read = sum(len(state.positions) for state in states)
    tokens = dict(zip(target.positions, target.token_ids, strict=True))
    readings = []
    for state in states:
        ids = tuple(tokens[position] for position in state.positions)
        conditioning = state.conditioning
        if conditioning is None and state.step is not None:
            conditioning = trajectory.conditioning_of(state.step)
        reading = Reading(state.ids, tuple(state.positions), ids, objective, conditioning)
        remark = _remark(method, adapter, trajectory, state.step)
        _expect_computed(trajectory, target, state)
        weight = len(state.positions) / read
        readings.append(TargetReading(index, weight, state.step, reading, states_from, score_from, remark))
    return readings


def _ask_states(
    hooks: EngineHooks, method: Method, adapter: Adapter, target: Target, trajectory: Trajectory
) -> Decision:
    """Who knows the states to replay for one target."""
    policy = method.mask_step
    decision = hooks.decide(
        "dcam_mask_step", policy=policy, target=target, trajectory=trajectory, adapter=adapter
    )
    if decision is None:
        there = ", ".join(known.policy for known in MASK_STEPS)
        raise ConfigurationError(
            f"mask_step {policy!r} is not a policy that any plugin knows: dcam itself has {there}. "
            f"{hooks.missing}".rstrip(". ")
        )
    return decision


def _expect_computed(trajectory: Trajectory, target: Target, state: ProbeState) -> None:
    """Refuse a step that did not compute what is to be read in its state."""
    for position in state.positions:
        if state.step is not None and not trajectory.computed(state.step, position):
            steps = trajectory.steps_of(position)
            there = f"steps {steps[0]} to {steps[-1]} did" if len(steps) else "no step did"
            raise StructuralValidityError(
                f"denoising step {state.step} computed nothing at answer position {position} of {target.word!r}: "
                f"{there}; choose another mask_step"
            )


def _remark(method: Method, adapter: Adapter, trajectory: Trajectory, step: int | None) -> str:
    """Where the replay of a step differs from what the run computed; refuses a step that is not valid."""
    if step is None:
        return ""
    if reason := adapter.invalid_reason(trajectory, step):
        if method.invalid_steps == "refuse":
            raise StructuralValidityError(
                f"denoising step {step} cannot be probed: {reason}; choose another mask_step, or set "
                "invalid_steps=warn to replay its state in full"
            )
        return f"step {step} is not structurally valid: {reason}; its state was replayed in full"
    if not adapter.exact_replay(trajectory, step):
        return f"step {step} was decided with rows of the answer from a cache; its state was replayed in full"
    return ""


def ask_objective(
    hooks: EngineHooks, method: Method, adapter: Adapter, target: Target, trajectory: Trajectory
) -> Decision:
    """Who knows the scalar to differentiate for one target.

    Raises:
        ConfigurationError: no plugin knows the method's gradient target.
    """
    parameters: Mapping[str, Any] = {k: v for k, v in method.gradient_target.items() if k != "name"}
    name = str(method.gradient_target["name"])
    decision = hooks.decide(
        "dcam_gradient_target",
        name=name,
        parameters=parameters,
        target=target,
        adapter=adapter,
        trajectory=trajectory,
    )
    if decision is None:
        there = ", ".join(known.name for known in GRADIENT_TARGETS)
        raise ConfigurationError(
            f"gradient_target {name!r} is not known to any plugin: dcam itself has {there}. "
            f"{hooks.missing}".rstrip(". ")
        )
    return decision
