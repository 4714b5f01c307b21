"""From scores per word to what a table says: means, intervals, and differences between methods."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_core.evaluation.bootstrap import LEVEL, RESAMPLES, bootstrap_intervals
from dcam_core.evaluation.reliance import Separation, separation

__all__ = ["Estimate", "Summary", "summarise"]


@dataclass(frozen=True)
class Estimate:
    """A mean over words, and how sure it is.

    Attributes:
        mean: the mean; None if no word has a score.
        low: lower end of its interval.
        high: upper end.
        words: number of words in the mean.
        unscored: number of words that the metric has no score for.
    """

    mean: float | None
    low: float | None
    high: float | None
    words: int
    unscored: int


@dataclass(frozen=True)
class Summary:
    """What an evaluation found.

    Attributes:
        model: name of the model.
        dataset: name of the dataset.
        metrics: metric -> whether higher is better, in the order of the columns.
        methods: method -> metric -> mean, in the order of the rows.
        differences: method -> metric -> its mean difference to the first method, over the words that both have a
            score for; every method but the first.
        samples: number of samples that were evaluated.
        pictures: number of them with at least one evaluated word; these are drawn for the intervals.
        words: number of words that were evaluated.
        unscored: reason -> number of words that are not evaluated.
        skipped: number of samples that could not be read or answered.
        seconds: method -> seconds per picture with evaluated words; "answer" is what reading and denoising took.
        reliance: how well visual reliance tells words that are seen from words that are not; None where it was not
            measured.
        first_skipped: why the first of the skipped samples was; None if none was.
        left_out: reason -> number of pictures and annotations of the data that could not be used, such as those with
            an empty mask; of what shows only when a picture is read, those of evaluated pictures.
        resamples: how often the pictures were drawn.
        level: of the intervals.
        seed: of the draws.
    """

    model: str
    dataset: str
    metrics: Mapping[str, bool]
    methods: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    samples: int
    pictures: int
    words: int
    unscored: Mapping[str, int]
    skipped: int
    seconds: Mapping[str, float]
    reliance: Separation | None = None
    first_skipped: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    resamples: int = RESAMPLES
    level: float = LEVEL
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def summarise(
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    skipped: int,
    *,
    model: str,
    dataset: str,
    methods: Sequence[str],
    metrics: Mapping[str, bool],
    first_skipped: str | None = None,
    left_out: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Summary:
    """Summarise the lines of an evaluation.

    Args:
        rows: those of `words.jsonl`.
        samples: those of `samples.jsonl`.
        skipped: number of samples that could not be read or answered.
        model: name of the model.
        dataset: name of the dataset.
        methods: names of all methods; the others are compared with the first.
        metrics: metric -> whether higher is better.
        first_skipped: why the first of the skipped samples was.
        left_out: reason -> number of things that the dataset does not give at all.
        seed: of the bootstrap.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {method: [] for method in methods}
    for row in rows:
        by_method[row["method"]].append(row)
    # All methods have the same words in the same order, because the words of a sample are written together.
    first = by_method[methods[0]]
    numbers: dict[str, int] = {}
    pictures = np.array([numbers.setdefault(row["sample"], len(numbers)) for row in first], dtype=np.int64)
    scores = {method: _scores(own, list(metrics)) for method, own in by_method.items()}
    apart = {method: scores[method] - scores[methods[0]] for method in methods[1:]}
    # One call for everything: methods and differences see the same draws of pictures.
    found = _estimates([*scores.values(), *apart.values()], pictures, list(metrics), seed)
    return Summary(
        model=model,
        dataset=dataset,
        metrics=dict(metrics),
        methods=dict(zip(methods, found, strict=False)),
        differences=dict(zip(methods[1:], found[len(methods) :], strict=True)),
        samples=len(samples),
        pictures=len(numbers),
        words=len(first),
        unscored=dict(Counter(word["why"] for line in samples for word in line["unscored"]).most_common()),
        skipped=skipped,
        seconds=_seconds(samples),
        reliance=separation(samples, seed),
        first_skipped=first_skipped,
        left_out=dict(
            (
                Counter(left_out or {})
                + Counter(each["why"] for line in samples for each in line["left_out"])
            ).most_common()
        ),
        seed=seed,
    )


def _scores(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> NDArray[np.float64]:
    """[W, K] scores, NaN where there is none."""
    table = [[row["scores"][metric] for metric in metrics] for row in rows]
    return np.array(table, dtype=np.float64).reshape(len(rows), len(metrics))


def _estimates(
    tables: Sequence[NDArray[np.float64]], pictures: NDArray[np.int64], metrics: Sequence[str], seed: int
) -> list[dict[str, Estimate]]:
    """For each [W, K] of scores, metric -> estimate."""
    columns = np.concatenate(tables, axis=1)
    intervals = bootstrap_intervals(columns, pictures, seed=seed)
    known = ~np.isnan(columns)
    found = []
    for column, (low, high) in enumerate(intervals):
        words = int(known[:, column].sum())
        mean = float(columns[known[:, column], column].mean()) if words else math.nan
        ends = (_known(mean), _known(low), _known(high))
        found.append(Estimate(*ends, words, len(columns) - words))
    width = len(metrics)
    return [
        dict(zip(metrics, found[start : start + width], strict=True)) for start in range(0, len(found), width)
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _seconds(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of each part of the work, over the samples that had it."""
    parts: dict[str, list[float]] = {}
    for line in samples:
        for name, value in line["seconds"].items():
            parts.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in parts.items()}
