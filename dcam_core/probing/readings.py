"""Ask the deciding hooks, for every target: which states to replay, and what to differentiate there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcam_core.errors import ConfigurationError, PluginError, StructuralValidityError
from dcam_core.probing.gradient_targets import GRADIENT_TARGETS
from dcam_core.probing.mask_steps import MASK_STEPS
from dcam_core.probing.probe import Reading

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.method import Method
    from dcam_core.plugins.engine_hooks import EngineHooks
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.probing.targets import Target

__all__ = ["TargetReading", "plan_readings"]


@dataclass(frozen=True, eq=False)
class TargetReading:
    """A reading, with the target that it belongs to.

    Attributes:
        target: index of the target.
        weight: share of this reading in the target's map; the weights of a target sum to 1.
        step: the denoising step that read the state; None if no step did.
        reading: what the probe must do.
        remark: what the reader should know about the replay; empty if it repeats what the step computed.
    """

    target: int
    weight: float
    step: int | None
    reading: Reading
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
        states = _states(hooks, method, adapter, target, trajectory)
        objective = _objective(hooks, method, adapter, target, trajectory)
        read = sum(len(state.positions) for state in states)
        tokens = dict(zip(target.positions, target.token_ids, strict=True))
        for state in states:
            ids = tuple(tokens[position] for position in state.positions)
            reading = Reading(state.ids, tuple(state.positions), ids, objective)
            remark = _remark(method, adapter, trajectory, state.step)
            readings.append(TargetReading(index, len(state.positions) / read, state.step, reading, remark))
    return readings


def _states(
    hooks: EngineHooks, method: Method, adapter: Adapter, target: Target, trajectory: Trajectory
) -> Sequence[ProbeState]:
    """The states of one target. What a plugin answers is checked here, not deep in a forward pass."""
    policy, expected = method.mask_step, trajectory.final.shape
    states: Sequence[ProbeState] | None = hooks.decide(
        "dcam_mask_step", policy=policy, target=target, trajectory=trajectory, adapter=adapter
    )
    if states is None:
        there = ", ".join(known.policy for known in MASK_STEPS)
        raise ConfigurationError(
            f"mask_step {policy!r} is not a policy that any plugin knows: dcam itself has {there}"
        )
    if not states:
        raise PluginError(policy, f"mask_step {policy!r} gave no state to replay for {target.word!r}")
    for state in states:
        if state.ids.shape != expected or not set(state.positions) <= set(target.positions):
            raise PluginError(
                policy,
                f"mask_step {policy!r} gave a state of shape {list(state.ids.shape)} reading positions "
                f"{state.positions} for {target.word!r}: it must be {list(expected)} and read positions out of "
                f"{target.positions}",
            )
    return states


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


def _objective(
    hooks: EngineHooks, method: Method, adapter: Adapter, target: Target, trajectory: Trajectory
) -> GradientTarget:
    """The scalar to differentiate for one target."""
    parameters: Mapping[str, Any] = {k: v for k, v in method.gradient_target.items() if k != "name"}
    name, length = str(method.gradient_target["name"]), len(trajectory.final)
    objective: GradientTarget | None = hooks.decide(
        "dcam_gradient_target", name=name, parameters=parameters, target=target, adapter=adapter
    )
    if objective is None:
        there = ", ".join(known.name for known in GRADIENT_TARGETS)
        raise ConfigurationError(
            f"gradient_target {name!r} is not known to any plugin: dcam itself has {there}"
        )
    if any(not 0 <= position < length for position in objective.context):
        raise ConfigurationError(
            f"gradient_target reads answer positions {objective.context}: the answer region has positions "
            f"0 to {length - 1}"
        )
    return objective
