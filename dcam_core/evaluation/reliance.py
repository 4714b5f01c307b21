"""What visual reliance says about the words of an evaluation: does it tell what is seen from what is not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_core.evaluation.bootstrap import LEVEL, interval_ends
from dcam_core.evaluation.named_words import NOT_SHOWN, PART_OF_A_NAME, NamedWord, UnscoredWord
from dcam_core.results.reliance import VisualReliance
from dcam_core.word_classes import WordClass, word_class

__all__ = ["Separation", "reliance_lines", "separation"]

SEEN, UNSEEN, UNKNOWN = "seen", "unseen", "unknown"
"""Of a word: it names something that is in the picture; it is a function word, or names what the picture does not
show; neither is known of it."""

_RESAMPLES = 1000


def reliance_lines(
    reliance: VisualReliance, unscored: Sequence[UnscoredWord], named: Sequence[NamedWord]
) -> list[dict[str, Any]]:
    """What is written down about the words of a sample.

    Args:
        reliance: of every word of the answer.
        unscored: the words that are not scored.
        named: the words that name something in the picture.

    Returns:
        For each word its text, its positions, its reliance in nats, whether it counts as grounded, and whether it is
        known to be seen.
    """
    reasons = {word.positions: word.why for word in unscored}
    places = {word.target.positions for word in named}
    return [
        {
            "word": item.word,
            "positions": list(item.positions),
            "nats": item.nats,
            "grounded": reliance.is_grounded(item),
            "known": _known(item.word, item.positions in places, reasons.get(item.positions)),
        }
        for item in reliance.words
    ]


def _known(word: str, named: bool, why: str | None) -> str:
    if named or why == PART_OF_A_NAME:
        return SEEN
    return UNSEEN if why == NOT_SHOWN or word_class(word) is WordClass.FUNCTION else UNKNOWN


@dataclass(frozen=True)
class Separation:
    """How well visual reliance tells words that are seen from words that are not.

    Attributes:
        auc: probability that a seen word relies more on the picture than an unseen one; None if one kind is missing.
        low: lower end of its interval over draws of pictures.
        high: upper end.
        seen: number of words that name something in the picture.
        unseen: number of function words and words for what the picture does not show.
        seen_grounded: share of the seen words that count as grounded.
        unseen_grounded: share of the unseen words that do.
    """

    auc: float | None
    low: float | None
    high: float | None
    seen: int
    unseen: int
    seen_grounded: float | None
    unseen_grounded: float | None


def separation(samples: Sequence[Mapping[str, Any]], seed: int = 0) -> Separation | None:
    """Tell the two kinds of words apart over an evaluation.

    Args:
        samples: lines of `samples.jsonl`.
        seed: of the draws of pictures.

    Returns:
        None where reliance was not measured.
    """
    lines = [line["reliance"] for line in samples if line.get("reliance") is not None]
    if not lines:
        return None
    seen, unseen = (
        [[word for word in line if word["known"] == kind] for line in lines] for kind in (SEEN, UNSEEN)
    )
    # Only the order of the words counts, and which of them are equal: for every draw it is the same.
    flat = [word["nats"] for kind in (seen, unseen) for own in kind for word in own]
    _, ranks = np.unique(np.array(flat, dtype=np.float64), return_inverse=True)
    pictures = [np.repeat(np.arange(len(lines)), [len(own) for own in kind]) for kind in (seen, unseen)]
    places = ranks[: len(pictures[0])], ranks[len(pictures[0]) :]

    def area(drawn: NDArray[np.float64]) -> float:
        """Where each picture, with its words, counts as often as it was drawn."""
        counts = [
            np.bincount(at, drawn[own], len(flat)).astype(np.float64)
            for at, own in zip(places, pictures, strict=True)
        ]
        return _area(*counts)

    count = len(lines)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    areas = np.array([area(drawn) for drawn in draws.astype(np.float64)])
    low, high = interval_ends(areas[:, None], LEVEL)[0]
    return Separation(
        auc=_number(area(np.ones(count))),
        low=_number(low),
        high=_number(high),
        seen=len(pictures[0]),
        unseen=len(pictures[1]),
        seen_grounded=_share(seen),
        unseen_grounded=_share(unseen),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _area(seen: NDArray[np.float64], unseen: NDArray[np.float64]) -> float:
    """Area under the ROC curve: how many of all pairs are in order, equals by half.

    Args:
        seen: [K], how many seen words have each of K values, in rising order.
        unseen: [K], the same of the unseen words.

    Returns:
        NaN without a pair.
    """
    total = seen.sum() * unseen.sum()
    below = np.cumsum(unseen) - unseen
    return float((seen * (below + 0.5 * unseen)).sum() / total) if total else np.nan


def _share(kind: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    words = [word["grounded"] for own in kind for word in own]
    return sum(words) / len(words) if words else None
