"""The lines of `words.jsonl` turned round: from one line per word and method to one word with all its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoredWord", "WordScores", "gather"]


@dataclass(frozen=True)
class ScoredWord:
    """A word that has a score from some method.

    Attributes:
        sample: number of its sample's line in `samples.jsonl`, counted from 0.
        positions: answer positions of its tokens.
        text: the word as it stands in the answer.
        named: what it names; empty where that is not known.
        probability: the model's, when it decided the word; None where it did not decide it.
        reliance: the word's visual reliance in nats; None where it was not measured.
    """

    sample: int
    positions: tuple[int, ...]
    text: str
    named: str
    probability: float | None
    reliance: float | None


@dataclass(frozen=True, eq=False)
class WordScores:
    """W words and their scores.

    Attributes:
        words: the words, in the order of `words.jsonl`.
        scores: [methods, metrics, W] float32, NaN where there is none.
    """

    words: tuple[ScoredWord, ...]
    scores: NDArray[np.float32]


def gather(
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Sequence[str],
) -> WordScores:
    """Gather every word's scores.

    Args:
        rows: the lines of `words.jsonl`; a method or a metric may be missing in some.
        samples: the lines of `samples.jsonl`.
        methods: names of the methods.
        metrics: names of the metrics.
    """
    sample_numbers = {line["sample"]: number for number, line in enumerate(samples)}
    reliance = {
        (number, tuple(word["positions"])): word["nats"]
        for number, line in enumerate(samples)
        for word in line.get("reliance") or ()
    }
    method_numbers = {method: number for number, method in enumerate(methods)}
    found: dict[tuple[int, tuple[int, ...]], ScoredWord] = {}
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    entries: list[tuple[int, int, list[float]]] = []
    for row in rows:
        method = method_numbers.get(row["method"])
        if method is None:
            continue
        key = sample_numbers[row["sample"]], tuple(row["positions"])
        if key not in found:
            places[key] = len(found)
            found[key] = ScoredWord(
                *key, row["word"], row.get("object") or "", row.get("probability"), reliance.get(key)
            )
        own = [row["scores"].get(metric) for metric in metrics]
        entries.append((method, places[key], [np.nan if value is None else value for value in own]))
    scores = np.full((len(methods), len(metrics), len(found)), np.nan, dtype=np.float32)
    for method, place, values in entries:
        scores[method, :, place] = values
    return WordScores(tuple(found.values()), scores)
