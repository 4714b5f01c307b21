"""Words of an answer as they are kept: those that were read, and those that were explained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcam_core.errors import DcamError

__all__ = ["ExplainedTarget", "Word"]


@dataclass(frozen=True)
class Word:
    """A word of the answer, for display.

    Attributes:
        text: the word as it stands in the answer.
        start: index of its first character in the answer.
        stop: one past its last character, so that `answer[start:stop] == text`.
        positions: answer positions of its tokens, counted from the first generated token.
        step: the last denoising step (from 0) that committed one of its tokens; None if not recorded.
    """

    text: str
    start: int
    stop: int
    positions: tuple[int, ...]
    step: int | None


@dataclass(frozen=True)
class ExplainedTarget:
    """A word or phrase that was explained, with what the model knew when its map was made.

    Attributes:
        word: the word or phrase, as in "circle" or "red circle".
        positions: answer positions of its tokens.
        token_ids: vocabulary ids of its tokens.
        tokens: the same tokens as the tokenizer writes them.
        commit_steps: for each token, the denoising step (from 0) by which it was decided; -1 if none did.
        probed_steps: the recorded steps whose states were replayed; None stands for a state that never
            occurred in the run, such as that of "infill".
        state: the mask-step policy that chose them.
        probability: product of the probabilities with which its tokens were decided, in [0, 1].
        score: value of the gradient target, the number that was differentiated.
        notes: remarks for the reader, such as the reason why a map is empty.
        replayed_probability: product of the probabilities of its tokens at the replayed state, in [0, 1]; the
            same as `probability` where that is the state by which they were decided. None if not recorded.
    """

    word: str
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    commit_steps: tuple[int, ...]
    probed_steps: tuple[int | None, ...]
    state: str
    probability: float
    score: float
    notes: tuple[str, ...] = ()
    replayed_probability: float | None = None

    def __post_init__(self) -> None:
        per_token = (self.positions, self.token_ids, self.tokens, self.commit_steps)
        if len({len(values) for values in per_token}) != 1 or not self.positions:
            raise DcamError(
                f"target {self.word!r} has {len(self.positions)} positions, {len(self.token_ids)} token "
                f"ids, {len(self.tokens)} tokens and {len(self.commit_steps)} commit steps: "
                "give one of each per token"
            )
        if not 0.0 <= self.probability <= 1.0:
            raise DcamError(f"target {self.word!r} has probability {self.probability}: it must be in [0, 1]")
        if not math.isfinite(self.score):
            raise DcamError(f"target {self.word!r} has score {self.score}: it must be a finite number")

    @property
    def last_step(self) -> int | None:
        """The denoising step at which its last token was decided; None if a token never was."""
        return None if min(self.commit_steps) < 0 else max(self.commit_steps)
