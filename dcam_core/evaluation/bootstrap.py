"""How sure a mean is: intervals by drawing the pictures again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "RESAMPLES", "bootstrap_intervals"]

RESAMPLES = 2000
LEVEL = 0.95

_AT_A_TIME = 8_000_000  # numbers drawn at once, which bounds the memory


def bootstrap_intervals(
    scores: NDArray[np.float64],
    pictures: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile intervals of means over words.

    Words of one picture share its answer, and are not independent of each other: pictures are drawn, with all their
    words. All columns see the same draws.

    Args:
        scores: [W, C], one row per word; NaN where a word has no score.
        pictures: [W] int64, the picture of each word, as a number from 0 to P - 1.
        resamples: how often P pictures are drawn, with replacement.
        level: the share of the resampled means between the ends of an interval.
        seed: of the draws.

    Returns:
        [C, 2], lower and upper ends; NaN for a column without a score.
    """
    known = ~np.isnan(scores)
    count = int(pictures.max()) + 1 if len(pictures) else 0
    if count == 0:
        return np.full((scores.shape[1], 2), np.nan)
    sums, words = np.zeros((count, scores.shape[1])), np.zeros((count, scores.shape[1]))
    np.add.at(sums, pictures, np.where(known, scores, 0.0))
    np.add.at(words, pictures, known)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, step := max(1, _AT_A_TIME // count)):
        size = min(step, resamples - start)
        # How often each picture is among P draws with replacement.
        drawn = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        found = drawn @ words
        means.append(np.divide(drawn @ sums, found, out=np.full_like(found, np.nan), where=found > 0))
    resampled = np.concatenate(means)
    ends = np.full((scores.shape[1], 2), np.nan)
    some = known.any(axis=0)
    tails = [50 * (1 - level), 50 * (1 + level)]
    if some.any():
        ends[some] = np.nanpercentile(resampled[:, some], tails, axis=0).T
    return ends
