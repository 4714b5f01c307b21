"""The page as text: a table that can be read without script, and data from which the script shows pictures."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcam_core.evaluation.folder import RunFolder
from dcam_core.evaluation.page.packing import BUDGET, Packed, pack, packed_scores
from dcam_core.evaluation.page.words import WordScores, gather
from dcam_core.evaluation.pictures import LARGEST_MAP
from dcam_core.evaluation.sample import CEILING
from dcam_core.evaluation.summary import Estimate, Summary
from dcam_core.results.report.overlay import heat_palette
from dcam_core.results.report.templating import flattened, heat_gradient, page_environment, script_digest

__all__ = ["render_page"]

_PACKAGE = "dcam_core.evaluation.page"
_WORDS_NAMED, _SKIPPED_NAMED = 12, 50
_NONE, _MINUS = "\u2013", "\u2212"  # a dash, and a sign as wide as a plus


@dataclass(frozen=True)
class _Column:
    """A metric's heading: parameters stand below the name."""

    name: str
    parameters: str
    higher: bool


@dataclass(frozen=True)
class _Cell:
    """A number of the table; `bar` is where its interval and mean lie between the column's ends, in per cent."""

    anchor: str
    mean: str
    interval: str
    value: float | None
    bar: tuple[float, float, float] | None
    strong: bool


@dataclass(frozen=True)
class _Row:
    method: str
    cells: tuple[_Cell, ...]
    seconds: str
    ceiling: bool


@dataclass(frozen=True)
class _Table:
    """Means, or differences to the first method (`kind`)."""

    kind: str
    title: str
    rows: tuple[_Row, ...]


@dataclass(frozen=True)
class _Reason:
    """Why words are not scored, and which they are most often."""

    why: str
    count: int
    words: tuple[tuple[str, int], ...]
    further: int


def render_page(
    summary: Summary, folder: RunFolder, request: Mapping[str, Any], *, budget: int = BUDGET
) -> str:
    """Give the page of an evaluation, which depends on its folder alone.

    Args:
        summary: what the folder comes to.
        folder: its words, samples and pictures.
        request: what was asked for.
        budget: most bytes that pictures may take. Where those of all words do not fit, the page has the worst, best
            and middle words of every number, as many of each as there is room for.

    Raises:
        SavedExplanationError: a file of the folder is damaged.
    """
    samples = folder.samples
    methods, metrics = list(summary.methods), list(summary.metrics)
    found = gather(folder.rows, samples, methods, metrics)
    packed = pack(found, methods, lambda number: folder.pictures(samples[number]["index"]), budget)
    environment = page_environment(_PACKAGE)
    script = environment.get_template("table.js").render()
    return environment.get_template("table.html.jinja").render(
        summary=summary,
        columns=[_column(metric, higher) for metric, higher in summary.metrics.items()],
        tables=list(_tables(summary)),
        baseline=methods[0],
        ceiling=CEILING if CEILING in methods else "",
        reasons=_reasons(samples),
        missing=_missing(summary),
        skipped=folder.skipped,
        skipped_named=_SKIPPED_NAMED,
        words=len(found.words),
        pictured=len(packed.words),
        cut=packed.cut,
        largest_map=LARGEST_MAP,
        settings=list(_settings(request, folder.facts or {})),
        heat_colours=heat_gradient(),
        data=_data(summary, found, samples, packed),
        script=script,
        script_digest=script_digest(script),
    )


# -- the table -----------------------------------------------------------------------------------------------


def _column(metric: str, higher: bool) -> _Column:
    name, _, parameters = metric.partition(":")
    return _Column(name, parameters.replace(":", ", "), higher)


def _tables(summary: Summary) -> Iterator[_Table]:
    best = {metric: _best(summary, metric) for metric in summary.metrics}
    yield _table(
        "mean",
        "Mean over words",
        summary,
        summary.methods,
        lambda method, metric, _: best[metric] == method,
    )
    if summary.differences:
        yield _table(
            "difference",
            f"Difference to {next(iter(summary.methods))}, word by word",
            summary,
            summary.differences,
            lambda _, __, estimate: _is_clear(estimate),
        )


def _table(
    kind: str,
    title: str,
    summary: Summary,
    table: Mapping[str, Mapping[str, Estimate]],
    strong: Any,
) -> _Table:
    numbers = {method: number for number, method in enumerate(summary.methods)}
    scales = [_scale([own[metric] for own in table.values()], kind) for metric in summary.metrics]
    sign = "+" if kind == "difference" else ""
    rows = []
    for method, estimates in table.items():
        cells = []
        for column, metric in enumerate(summary.metrics):
            estimate = estimates[metric]
            cells.append(
                _Cell(
                    anchor=f"{kind}-{numbers[method]}-{column}",
                    mean=_number(estimate.mean, sign),
                    interval=_interval(estimate, sign),
                    value=estimate.mean,
                    bar=_bar(estimate, scales[column]),
                    strong=strong(method, metric, estimate),
                )
            )
        seconds = summary.seconds.get(method)
        rows.append(
            _Row(method, tuple(cells), "" if seconds is None else f"{seconds:.2f}", method == CEILING)
        )
    return _Table(kind, title, tuple(rows))


def _best(summary: Summary, metric: str) -> str | None:
    """The method with the best mean; the mask itself does not compete."""
    means = {
        method: estimates[metric].mean for method, estimates in summary.methods.items() if method != CEILING
    }
    known = {method: mean for method, mean in means.items() if mean is not None}
    choose = max if summary.metrics[metric] else min
    return choose(known, key=lambda method: known[method]) if known else None


def _is_clear(estimate: Estimate) -> bool:
    """Whether an interval does not hold 0."""
    return estimate.low is not None and estimate.high is not None and not estimate.low <= 0 <= estimate.high


def _scale(estimates: Sequence[Estimate], kind: str) -> tuple[float, float]:
    """Ends of a column's scale: 0 to 1 where that holds all intervals, and as far to either side for differences."""
    ends = [end for each in estimates for end in (each.low, each.high, each.mean) if end is not None]
    if kind == "difference":
        furthest = max(map(abs, ends), default=0.0) or 1.0
        return -furthest, furthest
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return (low, 1.0 if 0.0 <= high <= 1.0 else high)


def _bar(estimate: Estimate, scale: tuple[float, float]) -> tuple[float, float, float] | None:
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return None
    low, high = scale
    start, mean, end = (
        100 * (value - low) / (high - low) for value in (estimate.low, estimate.mean, estimate.high)
    )
    return start, mean, end


def _number(value: float | None, sign: str) -> str:
    return _NONE if value is None else f"{value:{sign}.3f}".replace("-", _MINUS)


def _interval(estimate: Estimate, sign: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_number(estimate.low, sign)} to {_number(estimate.high, sign)}"


# -- what must be known besides ------------------------------------------------------------------------------


def _reasons(samples: Sequence[Mapping[str, Any]]) -> list[_Reason]:
    """Why words are not scored, most frequent first."""
    words: dict[str, Counter[str]] = {}
    for line in samples:
        for word in line["unscored"]:
            words.setdefault(word["why"], Counter())[word["word"]] += 1
    reasons = [
        _Reason(why, own.total(), tuple(own.most_common(_WORDS_NAMED)), max(0, len(own) - _WORDS_NAMED))
        for why, own in words.items()
    ]
    return sorted(reasons, key=lambda reason: -reason.count)


def _missing(summary: Summary) -> list[tuple[str, int]]:
    """Metrics that have no score for some words, and for how many at most."""
    counts = {
        metric: max(
            (own[metric].unscored for method, own in summary.methods.items() if method != CEILING), default=0
        )
        for metric in summary.metrics
    }
    return [(metric, count) for metric, count in counts.items() if count]


def _settings(
    request: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(title, rows) of what was asked for and what came of it; what it came to stands where both speak of it."""
    asked = {key: value for key, value in request.items() if key not in ("methods", "versions", "model")}
    yield "Asked for", list(flattened(asked))
    yield "Model", list(flattened({"name": request["model"], **facts.get("model", {})}))
    yield "Sampler", list(flattened(facts.get("sampler", {})))
    for method, settings in facts.get("methods", request["methods"]).items():
        yield f"Method {method}", list(flattened(settings))
    yield "Versions", list(flattened(request["versions"]))


# -- the data of the script ----------------------------------------------------------------------------------


def _data(
    summary: Summary, found: WordScores, samples: Sequence[Mapping[str, Any]], packed: Packed
) -> dict[str, Any]:
    """What the script reads; see `templates/pictures.js`."""
    used = sorted({word.sample for word in found.words})
    places = {sample: place for place, sample in enumerate(used)}
    return {
        "methods": list(summary.methods),
        "metrics": [
            {
                "name": metric,
                "higher": higher,
                "means": [own[metric].mean for own in summary.methods.values()],
            }
            for metric, higher in summary.metrics.items()
        ],
        "palette": base64.b64encode(heat_palette().tobytes()).decode("ascii"),
        "scores": packed_scores(found.scores),
        "samples": [
            {
                "key": samples[sample]["sample"],
                "answer": samples[sample]["answer"],
                "picture": packed.pictures.get(sample),
            }
            for sample in used
        ],
        "words": [
            {
                "text": word.text,
                "sample": places[word.sample],
                "named": word.named,
                "probability": word.probability,
                "reliance": word.reliance,
                "drawn": packed.words.get(number),
            }
            for number, word in enumerate(found.words)
        ],
    }
