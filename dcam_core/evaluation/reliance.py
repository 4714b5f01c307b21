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
    pairs = _ordered_pairs(_nats(seen), _nats(unseen))
    whole = np.ones((1, len(lines)))
    drawn = np.random.default_rng(seed).multinomial(
        len(lines), np.full(len(lines), 1 / len(lines)), size=_RESAMPLES
    )
    counts = [np.array([len(own) for own in kind], dtype=np.float64) for kind in (seen, unseen)]
    low, high = interval_ends(_areas(drawn.astype(np.float64), pairs, *counts)[:, None], LEVEL)[0]
    auc = _areas(whole, pairs, *counts)[0]
    return Separation(
        auc=_number(auc),
        low=_number(low),
        high=_number(high),
        seen=int(counts[0].sum()),
        unseen=int(counts[1].sum()),
        seen_grounded=_share(seen),
        unseen_grounded=_share(unseen),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nats(kind: Sequence[Sequence[Mapping[str, Any]]]) -> list[NDArray[np.float64]]:
    return [np.array([word["nats"] for word in own], dtype=np.float64) for own in kind]


def _ordered_pairs(
    seen: Sequence[NDArray[np.float64]], unseen: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """[P, P]: for two pictures, how many pairs of a seen word of one and an unseen one of the other are in order."""
    pairs = np.zeros((len(seen), len(unseen)))
    for row, own in enumerate(seen):
        for column, other in enumerate(unseen):
            above = own[:, None] - other
            pairs[row, column] = (above > 0).sum() + 0.5 * (above == 0).sum()
    return pairs


def _areas(
    drawn: NDArray[np.float64],
    pairs: NDArray[np.float64],
    seen: NDArray[np.float64],
    unseen: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[R] areas under the ROC curve for draws [R, P] of how often each picture counts; NaN without a pair."""
    total = (drawn @ seen) * (drawn @ unseen)
    right = ((drawn @ pairs) * drawn).sum(1)
    areas: NDArray[np.float64] = np.divide(right, total, out=np.full_like(total, np.nan), where=total > 0)
    return areas


def _share(kind: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    words = [word["grounded"] for own in kind for word in own]
    return sum(words) / len(words) if words else None
