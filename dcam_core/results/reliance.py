"""How much the words of an answer depend on the picture, as it is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcam_core.errors import DcamError

__all__ = ["VisualReliance", "WordReliance"]


@dataclass(frozen=True)
class WordReliance:
    """How much a word or phrase depends on the picture.

    Attributes:
        word: the word or phrase.
        positions: answer positions of its tokens.
        log_probability: of its tokens with the picture, in nats, where the word is hidden and the rest of the
            answer is visible.
        without: the same with each of the baseline pictures in place of the picture.
    """

    word: str
    positions: tuple[int, ...]
    log_probability: float
    without: tuple[float, ...]

    @property
    def nats(self) -> float:
        """The visual reliance: how much the picture adds to the word's log-probability.

        Where there are several baseline pictures, their probabilities are averaged: log p(word | picture) - log
        mean p(word | baseline). What some of them tell as well is then not much of the picture's own.
        """
        highest = max(self.without)
        mean = sum(math.exp(value - highest) for value in self.without) / len(self.without)
        return self.log_probability - highest - math.log(mean)


@dataclass(frozen=True)
class VisualReliance:
    """How much the words of one answer depend on the picture.

    Attributes:
        baselines: what stood in the picture's place.
        threshold: nats that a word must reach to be called grounded in the picture.
        words: every word of the answer but punctuation, and every other target that was asked for.

    Raises:
        DcamError: the parts do not fit each other, or a number is not finite.
    """

    baselines: tuple[str, ...]
    threshold: float
    words: tuple[WordReliance, ...]

    def __post_init__(self) -> None:
        if not self.baselines:
            raise DcamError("visual reliance needs at least one baseline picture: none was given")
        for item in self.words:
            if len(item.without) != len(self.baselines):
                raise DcamError(
                    f"word {item.word!r} has {len(item.without)} log-probabilities without the picture: give one for "
                    f"each of {', '.join(self.baselines)}"
                )
            if not all(map(math.isfinite, (item.log_probability, *item.without))):
                raise DcamError(f"word {item.word!r} has a log-probability that is not finite: {item}")

    def of(self, positions: Sequence[int]) -> WordReliance | None:
        """What is known about the word at some answer positions; None if it was not asked about."""
        wanted = tuple(positions)
        return next((item for item in self.words if item.positions == wanted), None)

    def is_grounded(self, item: WordReliance) -> bool:
        """Whether a word depends on the picture enough to be explained by a place in it."""
        return item.nats >= self.threshold

    @property
    def grounded(self) -> tuple[WordReliance, ...]:
        """The words that reach the threshold."""
        return tuple(filter(self.is_grounded, self.words))

    @property
    def ungrounded(self) -> tuple[WordReliance, ...]:
        """The words that do not."""
        return tuple(item for item in self.words if not self.is_grounded(item))
