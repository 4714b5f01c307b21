"""Which words a page shows pictures of, where it cannot carry those of all words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["most_telling_first"]


def most_telling_first(scores: NDArray[np.float32]) -> Iterator[int]:
    """Every word once; wherever one stops, every number has had as many as every other.

    The first round gives each number's worst, best and middle word, the second the next ones, and so on. Words that
    no number has a score for come last.

    Args:
        scores: [N, W], a row for every number of the table: the scores of all words in it, NaN where there is none.
    """
    rankings = []
    for row in scores:
        ranked = np.argsort(row, kind="stable")[: int(np.isfinite(row).sum())]
        middle = np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")
        rankings += [ranked, ranked[::-1], ranked[middle]]
    given: set[int] = set()
    for depth in range(scores.shape[1]):
        for ranking in rankings:
            if depth < len(ranking) and (word := int(ranking[depth])) not in given:
                given.add(word)
                yield word
        if len(given) == scores.shape[1]:
            return
    yield from (word for word in range(scores.shape[1]) if word not in given)
