"""What a word depends on: its log-probability with the picture, and without.

Every word is asked for in the same state, with the picture and with another in its place: the finished answer, with
that word alone undecided again (the state of "infill"). What the other words tell about it, they tell both
times; what remains of the difference is what the picture itself says about the word. At the state by which a word
was decided this would not be so: "and" is decided by how many objects there are, as long as those are not yet
written. That state is therefore not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.replayed import Reading, ReplayedStates, StateReader, log_probability
from dcam_core.results.reliance import VisualReliance, WordReliance

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.baseline_pictures import StandIn
    from dcam_core.probing.targets import Target

__all__ = ["GROUNDED_ABOVE", "hidden_log_probabilities", "measure_reliance"]

GROUNDED_ABOVE = 0.7
"""Nats of visual reliance from which a word is called grounded in the picture, by default.

A little above log 2: the picture must at least double the word's probability. On training scenes of the embedded
models (`python -m tests.benchmarks reliance split=train first=60000 count=20`) thresholds from 0.7 to 1.2 told
equally many words apart, within 1 %; the lowest keeps most grounded words.
"""

SPOKEN = GradientTarget(log_probability)
"""The scalar of a word whose probability alone is asked for."""


def measure_reliance(
    adapter: Adapter,
    inputs: Inputs,
    trajectory: Trajectory,
    targets: Sequence[Target],
    stand_ins: Sequence[StandIn],
    prepare: Callable[[Sequence[Image], str], Inputs],
    *,
    threshold: float = GROUNDED_ABOVE,
    states_per_forward: int = 8,
    on_replay: Callable[[int, int], None] | None = None,
) -> VisualReliance:
    """The visual reliance of words: one batched replay with the picture, and one for each that stands in for it.

    Args:
        adapter: the model; call within `dcam_core.probing.untouched.untouched`.
        inputs: the prepared prompt.
        trajectory: the recorded run, or the given answer.
        targets: words of the answer.
        stand_ins: what stands in the picture's place.
        prepare: makes the same prompt with other pictures.
        threshold: nats from which a word is called grounded.
        states_per_forward: how many words share a forward pass; bounds memory.
        on_replay: called after every replay with how many are done and how many there are.

    Raises:
        ConfigurationError: nothing stands in the picture's place.
    """
    if not stand_ins:
        raise ConfigurationError("visual reliance needs a baseline picture: name one, such as 'mean-colour'")
    words = _hidden_words(adapter, trajectory.final, targets, trajectory.settings, states_per_forward)
    found = []
    for shown in (None, *stand_ins):
        read = inputs if shown is None else prepare(shown.pictures, inputs.prompt)
        found.append(_log_probabilities(words, read).tolist())
        if on_replay is not None:
            on_replay(len(found), 1 + len(stand_ins))
    return VisualReliance(
        baselines=tuple(shown.name for shown in stand_ins),
        threshold=threshold,
        words=tuple(
            WordReliance(target.word, target.positions, with_picture, tuple(without))
            for target, with_picture, *without in zip(targets, *found, strict=True)
        ),
    )


def hidden_log_probabilities(
    adapter: Adapter,
    inputs: Inputs,
    final: Tensor,
    targets: Sequence[Target],
    settings: SamplerSettings,
    *,
    states_per_forward: int = 8,
) -> Tensor:
    """Log-probability of each word where it is hidden and the rest of the answer is visible.

    Args:
        adapter: the model; call within `dcam_core.probing.untouched.untouched`.
        inputs: the prepared prompt.
        final: [G] int64 on the CPU, the finished answer.
        targets: T words.
        settings: guidance and prefix cache, as during generation.
        states_per_forward: how many words share a forward pass; bounds memory.

    Returns:
        [T] float32 on the CPU, in nats: summed over the tokens of a word, which are all hidden at once. What the
        sampler may not say can be asked about nevertheless.
    """
    words = _hidden_words(adapter, final, targets, settings, states_per_forward)
    return _log_probabilities(words, inputs)


def _hidden_words(
    adapter: Adapter,
    final: Tensor,
    targets: Sequence[Target],
    settings: SamplerSettings,
    states_per_forward: int,
) -> StateReader:
    """What reads each word in the finished answer in which it alone is hidden."""
    hidden = [
        Reading(adapter.hidden(final, target.positions), target.positions, target.token_ids, SPOKEN)
        for target in targets
    ]
    return StateReader(adapter, hidden, settings.merged({"suppressed_ids": ()}), states_per_forward)


def _log_probabilities(words: StateReader, inputs: Inputs) -> Tensor:
    """[T] float32 on the CPU, in nats."""
    with torch.no_grad():
        return words.read(inputs, ReplayedStates.log_probability)[0]
