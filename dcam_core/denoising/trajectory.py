"""The record of one denoising run: every state the model passed through, and when each token was decided."""

from __future__ import annotations

from dataclasses import dataclass

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
        states: [steps + 1, G] int64, ids of the answer region before the first step (all masked), and
            after every step.
        commit_steps: [G] int64, the step that decided each position; `NEVER_COMMITTED` if none did,
            `GIVEN` if it was given.
        commit_logits: [G] float32, the logit of the chosen token in the forward pass that decided it
            (after guidance, before Gumbel noise); NaN if never committed.
        commit_probabilities: [G] float32, its softmax probability there; NaN if never committed.
        answer_length: number of leading positions that are the answer (the stop sequence and what
            follows it are not).
        settings: the sampler settings of the run.
    """

    states: Tensor
    commit_steps: Tensor
    commit_logits: Tensor
    commit_probabilities: Tensor
    answer_length: int
    settings: SamplerSettings

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
