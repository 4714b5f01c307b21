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

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ConfigurationError
from dcam_core.probing.fitting import in_chunks
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
    found = []
    for shown in (None, *stand_ins):
        read = inputs if shown is None else prepare(shown.pictures, inputs.prompt)
        values = hidden_log_probabilities(
            adapter,
            read,
            trajectory.final,
            targets,
            trajectory.settings,
            states_per_forward=states_per_forward,
        )
        found.append(values.tolist())
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
    device = inputs.embeddings.device
    decider = Decider(adapter, inputs, settings.merged({"suppressed_ids": ()}))

    def read(chunk: Sequence[Target]) -> Tensor:
        states = torch.stack([adapter.hidden(final, target.positions) for target in chunk]).to(device)
        wanted = sorted({position for target in chunk for position in target.positions})
        columns = {position: column for column, position in enumerate(wanted)}
        logits = decider.logits(states, torch.tensor(wanted, device=device))
        found = []
        for row, target in zip(logits, chunk, strict=True):
            rows = row[[columns[position] for position in target.positions]].log_softmax(-1)
            ids = torch.tensor(target.token_ids, device=device)
            found.append(rows.gather(-1, ids[:, None]).sum())
        return torch.stack(found)

    with torch.no_grad():
        parts = list(in_chunks(targets, states_per_forward, read))
    return torch.cat(parts).float().cpu() if parts else torch.zeros(0)
