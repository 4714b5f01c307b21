"""The record of one denoising run: every state the model passed through, and when each token was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dcam_core.denoising.settings import SamplerSettings

__all__ = ["GIVEN", "NEVER_COMMITTED", "Trajectory"]

NEVER_COMMITTED = -1
"""Commit step of a position that was still undecided when the run ended."""

GIVEN = -2
"""Commit step of a position that the draft decided (`SamplerSettings.draft_ids`)."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Every state of the answer region during denoising, on the CPU.

    `states[s]` is what the model read at step s; `states[s + 1]` is what it had decided after it. So a
    token committed at step s was decided by a forward pass over `states[s]`: replaying that state gives
    the logits by which the model decided.

    Attributes:
        states: [steps + 1, G] int64, ids of the answer region before the first step (nothing decided: mask
            tokens, or whatever a family has in place of them), and after every step.
        commit_steps: [G] int64, the step that decided each position: the first after which its token stood and
            was not taken back again; `NEVER_COMMITTED` if none did, `GIVEN` if it was given.
        commit_logits: [G] float32, the logit of the chosen token in the forward pass that decided it
            (after guidance, before noise and temperature); NaN if never committed.
        commit_probabilities: [G] float32, its softmax probability there; NaN if never committed.
        answer_length: number of leading positions that are the answer (the stop sequence and what
            follows it are not).
        settings: the sampler settings of the run.
        conditioning: for each step, what the step before handed to it besides the ids (self-conditioning), in
            the family's own form; None for a step that was handed nothing. Opaque to the engine, which hands it
            back to `Adapter.replay`. None: in this family the ids are all there is.
        windows: [steps, 2] int64, the first answer position that each step computed logits for, and one past the
            last; None: every step computed all of them.
    """

    states: Tensor
    commit_steps: Tensor
    commit_logits: Tensor
    commit_probabilities: Tensor
    answer_length: int
    settings: SamplerSettings
    conditioning: Sequence[Any] | None = field(default=None, repr=False)
    windows: Tensor | None = None

    @property
    def steps(self) -> int:
        """Number of denoising steps taken."""
        return int(self.states.shape[0]) - 1

    @property
    def final(self) -> Tensor:
        """[G] int64, the answer region after the last step."""
        return self.states[-1]

    @property
    def answer_ids(self) -> Tensor:
        """[answer_length] int64, the ids of the answer, the stop sequence excluded."""
        return self.states[-1, : self.answer_length]

    def undecided(self, step: int) -> Tensor:
        """[G] bool, the positions that were not decided before a step; `steps` asks for the end of the run."""
        decided = (self.commit_steps == GIVEN) | ((self.commit_steps >= 0) & (self.commit_steps < step))
        return ~decided

    def conditioning_of(self, step: int) -> Any:
        """What a step read besides the ids; None if that is nothing."""
        return None if self.conditioning is None else self.conditioning[step]

    def computed(self, step: int, position: int) -> bool:
        """Whether a step's forward pass computed logits for an answer position."""
        if self.windows is None:
            return True
        start, stop = self.windows[step].tolist()
        return bool(start <= position < stop)

    def steps_of(self, position: int) -> Sequence[int]:
        """The steps whose forward pass computed logits for an answer position, in order."""
        if self.windows is None:
            return range(self.steps)
        start, stop = self.windows.unbind(-1)
        found: list[int] = torch.nonzero((start <= position) & (position < stop))[:, 0].tolist()
        return found
