"""What is written down about a run: words, targets, model, and the answer as it grew."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.probing.targets import decode
from dcam_core.results.words import ExplainedTarget, Word

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.plugins.engine_hooks import Decision
    from dcam_core.probing.readings import TargetReading
    from dcam_core.probing.targets import Answer, Target

__all__ = ["answer_words", "decided_by", "explained_targets", "model_identity", "step_texts"]

BLANK = "\u2581"
"""Stands for an undecided token: one glyph reads better than the mask token's own name."""


def explained_targets(
    targets: Sequence[Target],
    trajectory: Trajectory,
    readings: Sequence[TargetReading],
    raw: Sequence[Tensor],
    scores: Tensor,
    log_probabilities: Tensor,
    *,
    policy: str,
    layer: str,
) -> tuple[ExplainedTarget, ...]:
    """The records of all targets, with remarks for the reader.

    Args:
        targets: T words.
        trajectory: the recorded run.
        readings: the R readings of all targets.
        raw: one [T, H, W] per picture, the raw maps.
        scores: [R] value of the gradient target in each reading.
        log_probabilities: [R] summed log-probability of the tokens read in each.
        policy: the method's mask-step policy; of a target whose states the user's own plugin chose, the name of
            that stands in its place.
        layer: path of the probed module.
    """
    records = []
    for index, target in enumerate(targets):
        own = [i for i, item in enumerate(readings) if item.target == index]
        notes = [readings[i].remark for i in own if readings[i].remark]
        values = torch.cat([part[index].flatten() for part in raw])
        if values.max() == values.min():
            value = "zero" if values.max() == 0 else "the same"
            what = "picture" if len(raw) == 1 else "pictures"
            notes.append(
                f"the map is {value} everywhere: at {layer} nothing in the {what} spoke for this word more than "
                "anything else"
            )
        read = [readings[i] for i in own]
        chosen = readings[own[0]].states_from
        state = chosen.plugin if chosen.by == "user" else policy
        records.append(
            _explained(target, trajectory, read, scores[own], log_probabilities[own], state, notes)
        )
    return tuple(records)


def decided_by(decisions: Iterable[Decision]) -> dict[str, tuple[str, ...]]:
    """Setting -> who decided it, where that was neither the method nor dcam itself."""
    found: dict[str, dict[str, None]] = {}
    for decision in decisions:
        if decision.by in ("user", "plugin"):
            found.setdefault(decision.hook.removeprefix("dcam_"), {})[decision.origin] = None
    return {setting: tuple(origins) for setting, origins in found.items()}


def answer_words(answer: Answer, trajectory: Trajectory) -> tuple[Word, ...]:
    """The answer's words, with the step that completed each."""
    words = []
    for word in answer.words:
        step = max(int(trajectory.commit_steps[position]) for position in word.positions)
        words.append(Word(word.text, word.start, word.stop, word.positions, step if step >= 0 else None))
    return tuple(words)


def model_identity(adapter: Adapter) -> dict[str, Any]:
    """Which model answered."""
    return {
        "name": adapter.name,
        "family": adapter.family,
        "source": None if adapter.folder is None else str(adapter.folder),
        "class": type(adapter.model).__name__,
        "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "device": str(adapter.device),
    }


def step_texts(
    adapter: Adapter, trajectory: Trajectory, states: Sequence[int] | None = None
) -> tuple[str, ...]:
    """The answer region as text, undecided tokens as `BLANK`.

    A token that was taken back again later counts as undecided until it comes to stay.

    Args:
        adapter: the model.
        trajectory: the recorded run.
        states: which states, by the number of the step that read them; None: those after every step.
    """

    @functools.cache  # most tokens stand there for many steps
    def written(token: int) -> str:
        return str(token) if adapter.tokenizer is None else decode(adapter.tokenizer, [token]).strip()

    def text(token: int, undecided: bool) -> str:
        return BLANK if undecided else written(token)

    texts = []
    for step in range(1, trajectory.steps + 1) if states is None else states:
        ids = trajectory.states[step, : trajectory.answer_length].tolist()
        texts.append(" ".join(map(text, ids, trajectory.undecided(step).tolist())))
    return tuple(texts)


def _explained(
    target: Target,
    trajectory: Trajectory,
    readings: Sequence[TargetReading],
    scores: Tensor,
    log_probabilities: Tensor,
    policy: str,
    notes: Sequence[str],
) -> ExplainedTarget:
    """The record of one target, from its R readings with their [R] scores and log-probabilities."""
    weights = torch.tensor([item.weight for item in readings])
    # A token that is read in several states counts by its mean: "all" reads every token at every step.
    reads_per_token = sum(len(item.reading.positions) for item in readings) / len(target.positions)
    replayed = float((log_probabilities.sum() / reads_per_token).exp().clamp(0, 1))
    decided = float(trajectory.commit_probabilities[list(target.positions)].prod())
    return ExplainedTarget(
        word=target.word,
        positions=target.positions,
        token_ids=target.token_ids,
        tokens=target.tokens,
        commit_steps=tuple(int(trajectory.commit_steps[p]) for p in target.positions),
        probed_steps=tuple(item.step for item in readings),
        state=policy,
        # A token that no step decided has no such probability: then that of the replayed state stands for it.
        probability=replayed if math.isnan(decided) else min(decided, 1.0),
        score=float((scores * weights).sum()),
        notes=tuple(notes),
        replayed_probability=replayed,
    )
