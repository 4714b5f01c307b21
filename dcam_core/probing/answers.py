"""What plugins answered to the deciding hooks, held to what the hooks promise.

Whatever does not fit is refused here, with the name of the plugin, what it answered and what was expected,
not deep in a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError, DcamError, PluginError
from dcam_core.plugins.failure import describe, indefinite
from dcam_core.probing.gradient_targets import GradientTarget, Score
from dcam_core.probing.mask_steps import ProbeState

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.plugins.engine_hooks import Decision
    from dcam_core.probing.targets import Target

__all__ = ["gradient_target", "kind_of", "layer_paths", "layer_remarks", "probe_states", "refuse_infinite"]


def layer_paths(decision: Decision, adapter: Adapter) -> tuple[str, ...]:
    """The module paths that an answer to `dcam_probe_layer` names: one, or several that differ.

    Raises:
        ConfigurationError: the method's own setting names no layer of this model, or one twice.
        PluginError: a plugin's answer does.
    """
    layers = _layers(decision)
    paths = tuple(_layer_path(layer, decision, adapter) for layer in layers)
    if not paths:
        raise decision.refused("an empty list", "at least one layer")
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigurationError(
                f"probe_layer {list(layers)}, answered by {decision.origin}, names {path!r} twice: name it once"
            )
    return paths


def layer_remarks(decision: Decision, adapter: Adapter) -> tuple[str, ...]:
    """What a reader must know of the layers that `layer_paths` found, a sentence each; most need none."""
    remarks = (adapter.layer_remark(layer) for layer in _layers(decision))
    return tuple(remark for remark in remarks if remark)


def _layers(decision: Decision) -> Sequence[Any]:
    """What an answer names: several things, or one."""
    answer = decision.answer
    return answer if isinstance(answer, Sequence) and not isinstance(answer, str) else (answer,)


def _layer_path(layer: object, decision: Decision, adapter: Adapter) -> str:
    """The module path of one layer."""
    if not isinstance(layer, int | float | str) or isinstance(layer, bool):
        raise decision.refused(
            kind_of(layer), "a module path, the number of a block, a fraction of the depth, or a list of them"
        )
    try:
        return adapter.layer_path(layer)
    except ConfigurationError as error:
        if decision.by == "setting":
            raise
        raise decision.refused(repr(layer), f"a layer of this model ({error})") from error


def probe_states(decision: Decision, target: Target, trajectory: Trajectory) -> Sequence[ProbeState]:
    """The states that an answer to `dcam_mask_step` names.

    Raises:
        PluginError: the answer is no sequence of `ProbeState`s, or is empty, or one of them does not fit the run.
    """
    states = decision.answer
    if not isinstance(states, Sequence) or isinstance(states, str):
        raise decision.refused(kind_of(states), "a list of ProbeStates")
    if not states:
        raise decision.refused(f"no state to replay for {target.word!r}", "at least one ProbeState")
    for state in states:
        if found := _misfit(state, target, trajectory):
            raise decision.refused(
                found,
                f"ProbeStates with int64 ids of shape {list(trajectory.final.shape)} on the CPU, that read "
                f"positions out of {target.positions} of {target.word!r}, at a step from 0 to "
                f"{trajectory.steps - 1} or None",
            )
    return states


def gradient_target(decision: Decision, target: Target, trajectory: Trajectory) -> GradientTarget:
    """The scalar that an answer to `dcam_gradient_target` names; its score checks what it computes.

    Raises:
        PluginError: the answer is no `GradientTarget`.
        ConfigurationError: it reads positions outside of the answer region.
    """
    answer = decision.answer
    if not isinstance(answer, GradientTarget) or not callable(answer.score):
        raise decision.refused(kind_of(answer), "a GradientTarget, whose score is a function of the logits")
    if not _are_ints(answer.context):
        raise decision.refused(f"the context {answer.context!r}", "a tuple of answer positions")
    length = len(trajectory.final)
    if any(not 0 <= position < length for position in answer.context):
        raise ConfigurationError(
            f"gradient_target, answered by {decision.origin}, reads answer positions {answer.context}: the answer "
            f"region has positions 0 to {length - 1}"
        )
    return replace(answer, score=_CheckedScore(answer.score, decision, target.word))


def refuse_infinite(
    decisions: Sequence[Decision], words: Sequence[str], scores: Tensor, log_probabilities: Tensor
) -> None:
    """Refuse scores that are not finite although the logits were.

    Args:
        decisions: R answers to `dcam_gradient_target`, whose scores were computed.
        words: the R words that they were computed for.
        scores: [R] what they gave.
        log_probabilities: [R] log-probability of the words in the same logits: NaN where the logits were.

    Raises:
        PluginError: a score is infinite or no number.
    """
    for index in torch.nonzero(~scores.isfinite() & ~log_probabilities.isnan())[:, 0].tolist():
        raise decisions[index].refused(
            f"a score that is {float(scores[index])} for {words[index]!r}",
            "a finite number (tokens that the sampler suppresses have a logit of -inf: leave them out)",
        )


def kind_of(value: object) -> str:
    """What a wrong answer is, for messages: "a list", "a float64 tensor of shape [2, 3]"."""
    if isinstance(value, Tensor):
        return f"{indefinite(str(value.dtype).removeprefix('torch.'))} tensor of shape {list(value.shape)}"
    return indefinite(type(value).__name__)


@dataclass(frozen=True)
class _CheckedScore:
    """A plugin's score, whose exceptions and wrong results name the plugin."""

    score: Score
    decision: Decision
    word: str

    def __call__(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        try:
            value: object = self.score(logits, token_ids)
        except DcamError:
            raise
        except Exception as error:
            raise PluginError(
                self.decision.plugin,
                f"the score that {self.decision.origin} answered {self.decision.hook} with failed for "
                f"{self.word!r}, on logits {list(logits.shape)}: {describe(error)}",
            ) from error
        expected = "a floating-point scalar tensor, computed from the logits"
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            raise self.decision.refused(f"a score that is {kind_of(value)}", expected)
        if logits.requires_grad and not value.requires_grad:
            raise self.decision.refused("a score that has no gradient", expected)
        return value


def _misfit(state: object, target: Target, trajectory: Trajectory) -> str:
    """What is wrong with one item of an answer to `dcam_mask_step`; "" if nothing is."""
    if not isinstance(state, ProbeState):
        return f"{kind_of(state)} among the states"
    ids: object = state.ids
    positions, step = state.positions, state.step
    if not isinstance(ids, Tensor):
        return f"ids that are {kind_of(ids)}"
    if ids.shape != trajectory.final.shape or ids.dtype != torch.int64 or ids.device.type != "cpu":
        where = "" if ids.device.type == "cpu" else f" on {ids.device}"
        return f"ids that are {kind_of(ids)}{where}"
    if ids.amin() < 0:
        return f"the id {int(ids.amin())}"
    if not isinstance(positions, Sequence) or not _are_ints(positions):
        return f"positions that are {positions!r}"
    if not positions or len(set(positions)) < len(positions) or not set(positions) <= set(target.positions):
        return f"a state that reads positions {tuple(positions)}"
    if step is not None and (not _are_ints((step,)) or not 0 <= step < trajectory.steps):
        return f"step {step!r}"
    return ""


def _are_ints(values: Sequence[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
