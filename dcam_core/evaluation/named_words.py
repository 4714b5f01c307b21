"""Which words of an answer are scored, against which pixels, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dcam_core.dataset import LeftOut, SampleObject
from dcam_core.matching import Match, WordMatcher, target_mask
from dcam_core.probing.targets import Answer, Target, phrase

if TYPE_CHECKING:
    from dcam_core.results.reliance import VisualReliance

__all__ = [
    "NOT_ANNOTATED",
    "NOT_GROUNDED",
    "NOT_SHOWN",
    "NO_MASK",
    "PART_OF_A_NAME",
    "EvaluatedWord",
    "NamedWord",
    "UnscoredWord",
    "named_words",
    "with_grounded",
]

NOT_ANNOTATED = "names nothing that is annotated"
NOT_SHOWN = "names what the picture is not known to show"
NOT_GROUNDED = "does not depend on the picture"
NO_MASK = "names something whose mask could not be used"
PART_OF_A_NAME = "part of a name that is scored at its head word"


@dataclass(frozen=True, eq=False)
class NamedWord:
    """A word that names something in the picture.

    Attributes:
        target: the word, as it is explained.
        match: what it names.
        mask: [H, W] bool, the pixels of what it names.
    """

    target: Target
    match: Match
    mask: Tensor


@dataclass(frozen=True, eq=False)
class EvaluatedWord:
    """A word that methods are compared on.

    Attributes:
        target: the word, as it is explained.
        named: what it names; None where that is not known, and its maps can be asked for faithfulness alone.
    """

    target: Target
    named: NamedWord | None = None

    @property
    def mask(self) -> Tensor | None:
        """[H, W] bool, the pixels of what it names."""
        return None if self.named is None else self.named.mask


@dataclass(frozen=True)
class UnscoredWord:
    """A word that there is nothing to compare a map with.

    Attributes:
        word: as it stands in the answer.
        positions: answer positions of its tokens.
        why: one of the reasons of this module, the same words in every such case.
    """

    word: str
    positions: tuple[int, ...]
    why: str


def named_words(
    answer: Answer,
    objects: Sequence[SampleObject],
    matcher: WordMatcher,
    left_out: Sequence[LeftOut] = (),
) -> tuple[list[NamedWord], list[UnscoredWord]]:
    """Sort the words of an answer, punctuation left out.

    A name of several words is one naming and counts once, at the word that says what the thing is: "circle" of "red
    circle", "man" of "man in a red shirt". Otherwise objects with long names would count more than others.

    Args:
        answer: the answer.
        objects: the objects of the picture.
        matcher: tells which word names what.
        left_out: what the data say of the picture and could not be used: words for it name something that is there.

    Returns:
        The words that are scored, and those that are not, each in reading order.
    """
    named, unscored = [], []
    without_mask = {name for each in left_out for name in each.words}
    # Punctuation is shown to the matcher, because it ends a name.
    matches = matcher.match([word.text for word in answer.words], objects)
    for index, (word, match) in enumerate(zip(answer.words, matches, strict=True)):
        if word.is_punctuation:
            continue
        mask = None if match is None else target_mask(match, objects)
        if match is not None and mask is not None and index == match.head:
            named.append(NamedWord(phrase(answer, [word]), match, mask))
        else:
            unscored.append(UnscoredWord(word.text, word.positions, _why(match, mask, without_mask)))
    return named, unscored


def _why(match: Match | None, mask: Tensor | None, without_mask: Set[str]) -> str:
    if match is None:
        return NOT_ANNOTATED
    if mask is not None:
        return PART_OF_A_NAME
    return NOT_SHOWN if without_mask.isdisjoint(match.names) else NO_MASK


def with_grounded(
    words: Sequence[EvaluatedWord],
    unscored: Sequence[UnscoredWord],
    answer: Answer,
    reliance: VisualReliance,
) -> tuple[list[EvaluatedWord], list[UnscoredWord]]:
    """Let words count that no mask is known of, if they depend on the picture.

    Args:
        words: those that name something in the picture.
        unscored: the others.
        answer: the answer.
        reliance: of all its words.

    Returns:
        The words that are evaluated, in reading order, and those that are still not.
    """
    grounded = {item.positions for item in reliance.grounded}
    found = {word.target.positions: word for word in words}
    for word in answer.words:
        if word.positions in grounded and word.positions not in found:
            found[word.positions] = EvaluatedWord(phrase(answer, [word]))
    left = [
        UnscoredWord(word.word, word.positions, NOT_GROUNDED)
        for word in unscored
        if word.positions not in found
    ]
    return sorted(found.values(), key=lambda word: word.target.positions), left
