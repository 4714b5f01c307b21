"""A summary as a table: for the terminal, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dcam_core.evaluation.sample import CEILING
from dcam_core.evaluation.summary import Estimate, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dcam_core.evaluation.reliance import Separation

__all__ = ["latex", "markdown", "terminal"]


def markdown(summary: Summary) -> str:
    """The summary as a page of Markdown."""
    lines = [f"# {summary.model} on {summary.dataset}", ""]
    for title, table, sign in _tables(summary):
        columns = ["method", *_headings(summary)]
        lines += [title, "", _pipes(columns), _pipes(["---"] * len(columns))]
        for method, estimates in table.items():
            lines.append(
                _pipes(
                    [
                        method,
                        *(
                            f"{_mean(each, sign)} {_interval(each, sign)}".strip()
                            for each in estimates.values()
                        ),
                    ]
                )
            )
        lines.append("")
    return "\n".join([*lines, *(f"* {remark}" for remark in _remarks(summary))])


def latex(summary: Summary) -> str:
    """The means as a table for LaTeX with the package booktabs."""
    columns = "l" + "c" * len(summary.metrics)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    arrows = {True: r"$\uparrow$", False: r"$\downarrow$"}
    heads = [f"{_escaped(metric)} {arrows[higher]}" for metric, higher in summary.metrics.items()]
    lines += [" & ".join(["method", *heads]) + r" \\", r"\midrule"]
    for method, estimates in summary.methods.items():
        cells = [rf"{_mean(each)} {{\scriptsize {_interval(each)}}}" for each in estimates.values()]
        lines.append(" & ".join([_escaped(method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def terminal(summary: Summary) -> Iterator[RenderableType]:
    """The summary for `rich.console.Console.print`."""
    from rich.table import Table
    from rich.text import Text

    for title, table, sign in _tables(summary):
        shown = Table(title=title, title_justify="left")
        shown.add_column("method", no_wrap=True)
        for heading in _headings(summary):
            # A metric's parameters stand below its name: columns are as wide as their intervals.
            shown.add_column(heading.replace(":", "\n"), justify="right")
        for method, estimates in table.items():
            # The interval stands below the mean, so that six columns fit.
            cells = [Text(f"{_mean(each, sign)}\n{_interval(each, sign)}") for each in estimates.values()]
            shown.add_row(Text(method), *cells)
        yield shown
    for remark in _remarks(summary):
        yield Text(remark)


def _tables(summary: Summary) -> Iterator[tuple[str, Mapping[str, Mapping[str, Estimate]], str]]:
    """(title, method -> metric -> estimate, how a number's sign is written)."""
    yield f"Mean over words, with its {summary.level:.0%} interval", summary.methods, ""
    if summary.differences:
        yield f"Difference to {next(iter(summary.methods))}, word by word", summary.differences, "+"


def _headings(summary: Summary) -> list[str]:
    return [f"{metric} {'↑' if higher else '↓'}" for metric, higher in summary.metrics.items()]


def _remarks(summary: Summary) -> Iterator[str]:
    """What must be known to read the numbers."""
    if not summary.words:
        yield f"no word was evaluated: {_nothing_found(summary)}"
    yield (
        f"{summary.words} words in {summary.pictures} of {summary.samples} pictures; intervals from "
        f"{summary.resamples} draws of pictures"
    )
    for why, count in summary.unscored.items():
        yield f"not scored: {count} words ({why})"
    if summary.reliance is not None:
        yield _told_apart(summary.reliance)
    for metric in summary.metrics:
        yield from _missing(summary, metric)
    for why, count in summary.left_out.items():
        yield f"left out of the data: {count} ({why})"
    if summary.skipped:
        yield f"skipped: {summary.skipped} samples, the first because {summary.first_skipped} (skipped.jsonl)"
    if summary.seconds:
        yield "seconds per picture: " + ", ".join(
            f"{name} {value:.2f}" for name, value in summary.seconds.items()
        )


def _missing(summary: Summary, metric: str) -> Iterator[str]:
    """Which means are over fewer words; where masks decide what has a score, it is as many for all methods."""
    counts = {
        method: estimates[metric].unscored
        for method, estimates in summary.methods.items()
        if method != CEILING
    }
    if not any(counts.values()):
        return
    if len(set(counts.values())) == 1:
        yield f"{metric}: {next(iter(counts.values()))} words without a score"
    else:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items() if count)
        yield f"{metric}: words without a score: {listed}"


def _told_apart(apart: Separation) -> str:
    """How well visual reliance tells what is seen from what is not."""
    if apart.auc is None:
        return (
            f"visual reliance: {apart.seen} words name what is seen and {apart.unseen} nothing seen; to tell them "
            "apart takes both"
        )
    return (
        f"visual reliance tells {apart.seen} words that name what is seen from {apart.unseen} that name nothing "
        f"seen with an area under the ROC curve of {apart.auc:.3f} [{apart.low:.3f}, {apart.high:.3f}]; "
        f"{apart.seen_grounded:.1%} and {apart.unseen_grounded:.1%} of them count as grounded"
    )


def _nothing_found(summary: Summary) -> str:
    if not summary.samples:
        return "every sample was skipped"
    return (
        "in no answer is a word that names something annotated (samples.jsonl has the answers); words without a mask "
        "are evaluated with every_grounded_word, by metrics that ask the model"
    )


def _mean(estimate: Estimate, sign: str = "") -> str:
    return _number(estimate.mean, sign)


def _interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{_number(estimate.low, sign)}, {_number(estimate.high, sign)}]"


def _number(value: float | None, sign: str) -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_ESCAPED: Mapping[str, str] = {character: f"\\{character}" for character in "_&%#${}"}


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)
