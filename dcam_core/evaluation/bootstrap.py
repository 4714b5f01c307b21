"""How sure a mean is: intervals by drawing the pictures again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "RESAMPLES", "bootstrap_intervals", "interval_ends", "resampled_means"]

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

    Args:
        scores: see `resampled_means`.
        pictures: see `resampled_means`.
        resamples: see `resampled_means`.
        level: the share of the resampled means between the ends of an interval.
        seed: of the draws.

    Returns:
        [C, 2], lower and upper ends; NaN for a column without a score.
    """
    return interval_ends(resampled_means(scores, pictures, resamples=resamples, seed=seed), level)


def resampled_means(
    scores: NDArray[np.float64],
    pictures: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means over words of pictures that are drawn again and again.

    Words of one picture share its answer, and are not independent of each other: pictures are drawn, with all their
    words. All columns see the same draws.

    Args:
        scores: [W, C], one row per word; NaN where a word has no score.
        pictures: [W] int64, the picture of each word, as a number from 0 to P - 1.
        resamples: how often P pictures are drawn, with replacement.
        seed: of the draws.

    Returns:
        [resamples, C]; NaN where no drawn word has a score, [0, C] without pictures.
    """
    known = ~np.isnan(scores)
    count = int(pictures.max()) + 1 if len(pictures) else 0
    if count == 0:
        return np.empty((0, scores.shape[1]))
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
    return np.concatenate(means)


def interval_ends(resampled: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
    """The ends between which the given share of resampled figures lies.

    Args:
        resampled: [resamples, C], NaN where there is none.
        level: the share.

    Returns:
        [C, 2], lower and upper ends; NaN for a column without any figure.
    """
    ends = np.full((resampled.shape[1], 2), np.nan)
    some = ~np.isnan(resampled).all(axis=0)
    if some.any():
        ends[some] = np.nanpercentile(resampled[:, some], [50 * (1 - level), 50 * (1 + level)], axis=0).T
    return ends
