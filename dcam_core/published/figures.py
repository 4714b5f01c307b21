"""The columns of a paper, out of the words that an evaluation scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcam_core.evaluation.bootstrap import interval_ends, resampled_means
from dcam_core.evaluation.summary import Estimate
from dcam_core.published.paper import Column

__all__ = ["Figures", "figures", "harmonic_mean"]


class Figures(NamedTuple):
    """What was found for some methods, as a paper would print it.

    Attributes:
        values: method -> column -> figure with its interval.
        changes: method -> column -> what the figure has more than that of the method it is compared with; intervals
            from the same draws of pictures. Empty if there is no such method.
    """

    values: dict[str, dict[str, Estimate]]
    changes: dict[str, dict[str, Estimate]]


def figures(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    columns: Mapping[str, Column],
    metrics: Mapping[str, str],
    *,
    compared_with: str | None = None,
    seed: int = 0,
) -> Figures:
    """Make a paper's columns.

    Args:
        rows: lines of an evaluation's `words.jsonl`.
        methods: labels of methods in them, at least one.
        columns: key -> column.
        metrics: column -> label of a metric in the rows; every column that is no harmonic mean.
        compared_with: one of the methods.
        seed: of the bootstrap.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {method: [] for method in methods}
    for row in rows:
        if row["method"] in by_method:
            by_method[row["method"]].append(row)
    # All methods have the same words in the same order, because the words of a sample are written together.
    first = by_method[methods[0]]
    numbers: dict[str, int] = {}
    pictures = np.array([numbers.setdefault(row["sample"], len(numbers)) for row in first], dtype=np.int64)
    scores = np.array(
        [[row["scores"][label] for label in metrics.values()] for own in by_method.values() for row in own],
        dtype=np.float64,
    ).reshape(len(methods), len(first), len(metrics))
    words = (~np.isnan(scores)).sum(1)
    means = np.divide(np.nansum(scores, 1), words, out=np.full(words.shape, np.nan), where=words > 0)
    flat = scores.transpose(1, 0, 2).reshape(len(first), words.size)
    drawn = resampled_means(flat, pictures, seed=seed)
    # The means of all words, and below them those of every draw: what is made of means is made of all alike.
    table = np.concatenate([means[None], drawn.reshape(len(drawn), *words.shape)])
    places = {column: place for place, column in enumerate(metrics)}
    printed = np.stack([_column(column, key, table, places) for key, column in columns.items()], axis=-1)
    counts = np.stack(
        [
            words[:, [places[part] for part in column.harmonic_mean_of or (key,)]].min(1)
            for key, column in columns.items()
        ],
        axis=-1,
    )
    values = _estimates(printed, counts, len(first), methods, list(columns))
    if compared_with is None:
        return Figures(values, {})
    base = list(methods).index(compared_with)
    changes = _estimates(
        printed - printed[:, base : base + 1],
        np.minimum(counts, counts[base]),
        len(first),
        methods,
        list(columns),
    )
    return Figures(values, changes)


def harmonic_mean(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic mean over the last axis; 0 where a part is 0, NaN where one is NaN.

    Args:
        parts: [..., K], >= 0.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(parts.shape[-1] / (1 / parts).sum(-1))


def _column(
    column: Column, key: str, means: NDArray[np.float64], places: Mapping[str, int]
) -> NDArray[np.float64]:
    """A column as it is printed, out of means [..., K] of metrics."""
    if not column.harmonic_mean_of:
        return means[..., places[key]] * column.factor
    parts = [means[..., places[part]] / perfect for part, perfect in column.harmonic_mean_of.items()]
    return harmonic_mean(np.minimum(np.stack(parts, axis=-1), 1.0)) * column.factor


def _estimates(
    printed: NDArray[np.float64],
    counts: NDArray[np.int64],
    words: int,
    methods: Sequence[str],
    columns: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Figures [1 + draws, M, C], the first of all words, as estimates."""
    ends = interval_ends(printed[1:].reshape(len(printed) - 1, counts.size)).reshape(*counts.shape, 2)
    return {
        method: {
            column: Estimate(
                _known(printed[0, m, c]),
                _known(ends[m, c, 0]),
                _known(ends[m, c, 1]),
                int(counts[m, c]),
                words - int(counts[m, c]),
            )
            for c, column in enumerate(columns)
        }
        for m, method in enumerate(methods)
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
