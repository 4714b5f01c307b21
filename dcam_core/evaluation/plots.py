"""Pictures of studies: lines over a setting or over depth, dots with whiskers for what refiners contribute.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; markers differ too, so that a
print in grey can be read.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcam_core.evaluation.studies import Ablation, Study
from dcam_core.evaluation.summary import Estimate, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ablation_figure", "line_figure", "rendered", "study_figures"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "os^Dv*X"
_INK, _FAINT = "#222222", "#8a8a8a"
_WORSE, _BETTER = "#d55e00", "#0072b2"

_COLUMNS = 3
_WIDTH = 7.2
"""Inches: the width of the text on a page with two columns."""
_DIGITS = 3
_LOGARITHMIC_FROM = 50.0
"""From this ratio of largest to smallest value on, an axis is logarithmic."""
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
    "svg.hashsalt": "dcam",  # else every file has other names inside
}

Summarised = Callable[[Sequence[str]], Summary]
"""(methods) -> their summary, in which the others are compared with the first."""


def study_figures(
    studies: Sequence[Study],
    studied: Mapping[str, Mapping[str, Mapping[str, Any]]],
    summarised: Summarised,
) -> Iterator[tuple[str, Figure]]:
    """Draw studies: an ablation for each method, everything else with a line for each method.

    Args:
        studies: the studies.
        studied: what stands where in their pictures, see `dcam_core.evaluation.methods.Expanded`.
        summarised: gives the numbers.

    Yields:
        The stem of a file's name, and the figure.
    """
    stems: Counter[str] = Counter()
    for study in studies:
        for name, figure in _figures(study, studied[study.asked], summarised):
            stem = re.sub(r"[^\w.+-]+", "-", name)
            stems[stem] += 1
            # Two sweeps of one setting, over other values, have the same stem.
            yield (stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"), figure


def _figures(
    study: Study, lines: Mapping[str, Mapping[str, Any]], summarised: Summarised
) -> Iterator[tuple[str, Figure]]:
    """The figures of one study, each with a name."""
    name = study.asked.partition("=")[0]
    if isinstance(study, Ablation):
        for method, rows in lines.items():
            summary = summarised(list(dict.fromkeys((method, *rows))))
            yield f"{name} {method}", ablation_figure(summary, method, rows, study.title)
    else:
        labels = dict.fromkeys(label for method, points in lines.items() for label in (method, *points))
        yield name, line_figure(summarised(list(labels)), lines, study.title)


def rendered(figure: Figure, form: str) -> bytes:
    """A figure as a file.

    Args:
        figure: from `study_figures`.
        form: "svg" or "png". The same figure gives the same bytes.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else {"Software": None})
    return file.getvalue()


def line_figure(summary: Summary, lines: Mapping[str, Mapping[str, float | str]], setting: str) -> Figure:
    """Draw every metric over the values of a setting, with its intervals as bands.

    Args:
        summary: holds all methods.
        lines: method -> label of a variant -> its value: a number, or text. Where a method stands without the study
            is a dotted line.
        setting: what the values are of.
    """
    from matplotlib import rc_context

    values = list(dict.fromkeys(value for points in lines.values() for value in points.values()))
    numeric = all(isinstance(value, int | float) for value in values)
    places: dict[Any, float] = {
        value: float(value) if numeric else float(number) for number, value in enumerate(values)
    }
    with rc_context(_STYLE):
        figure, panels = _panels(summary, setting, height=1.75, extra=0.75)
        for metric, axes in panels.items():
            for number, (method, points) in enumerate(lines.items()):
                colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
                line = sorted(
                    (places[value], *_ends(summary, label, metric)) for label, value in points.items()
                )
                x, mean, low, high = zip(*line, strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
                axes.plot(x, mean, color=colour, marker=marker, linewidth=1.3, label=method)
                axes.axhline(_ends(summary, method, metric)[0], color=colour, linestyle=":", linewidth=1)
            _value_axis(axes, places, numeric=numeric)
        handles, labels = next(iter(panels.values())).get_legend_handles_labels()
        handles.append(_dotted())
        figure.legend(handles, [*labels, "as it is"], loc="outside lower center", ncols=min(4, len(handles)))
        for axes in list(panels.values())[-_COLUMNS:]:
            axes.set_xlabel(setting.rpartition(".")[2])
    return figure


def ablation_figure(summary: Summary, method: str, rows: Mapping[str, str], title: str) -> Figure:
    """Draw the variants of a method as rows of dots with whiskers.

    Behind each row stands its mean difference to the method, word by word. Where the interval of this difference does
    not hold 0, and it can be seen in the digits shown, the mark says whether the variant is better or worse.

    Args:
        summary: holds the method, first, and its variants.
        method: the method as it is.
        rows: label of a variant -> the text of its row, from top to bottom.
        title: what was done.
    """
    from matplotlib import rc_context
    from matplotlib.lines import Line2D

    with rc_context(_STYLE):
        figure, panels = _panels(
            summary, f"{method}, {title}", height=0.42 + 0.2 * len(rows), extra=0.75, sharey=True
        )
        for metric, axes in panels.items():
            axes.axvline(_ends(summary, method, metric)[0], color=_FAINT, linestyle=":", linewidth=1)
            for place, label in enumerate(rows):
                difference = summary.differences[label][metric] if label != method else None
                sign = _sign(difference, higher=summary.metrics[metric])
                colour = {-1: _WORSE, 0: _INK, 1: _BETTER}[sign]
                mean, low, high = _ends(summary, label, metric)
                axes.hlines(place, low, high, color=colour, linewidth=1.3)
                axes.plot(
                    mean,
                    place,
                    marker={-1: "v", 0: "o", 1: "^"}[sign],
                    color=colour,
                    markerfacecolor=colour if sign or label == method else "white",
                )
                if difference is not None and difference.mean is not None:
                    axes.annotate(
                        _signed(difference.mean),
                        (1.02, place),
                        xycoords=("axes fraction", "data"),
                        va="center",
                        fontsize=6.5,
                        color=colour,
                    )
            axes.set_yticks(range(len(rows)), list(rows.values()))
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        kinds = (("v", _WORSE, "worse"), ("o", _INK, "no clear difference"), ("^", _BETTER, "better"))
        handles = [
            Line2D(
                [], [], linestyle="", marker=marker, color=colour, markerfacecolor=colour if sign else "white"
            )
            for sign, (marker, colour, _) in zip((-1, 0, 1), kinds, strict=True)
        ]
        labels = [text for _, _, text in kinds]
        figure.legend(
            [*handles, _dotted()], [*labels, f"{method} as it is"], loc="outside lower center", ncols=4
        )
    return figure


def _panels(
    summary: Summary, title: str, *, height: float, extra: float, sharey: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for every metric; heights in inches."""
    from matplotlib.figure import Figure

    metrics = list(summary.metrics)
    columns = min(_COLUMNS, len(metrics))
    count = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(_WIDTH, height * count + extra), layout="constrained")
    axes = list(figure.subplots(count, columns, squeeze=False, sharey=sharey).flat)
    panels = dict(zip(metrics, axes, strict=False))
    for unused in axes[len(metrics) :]:
        unused.set_visible(False)
    for metric, own in panels.items():
        direction = "higher is better" if summary.metrics[metric] else "lower is better"
        own.set_title(f"{metric.replace(':', chr(10))}\n{direction}", loc="left", color=_INK)
    figure.suptitle(
        f"{title}\n{summary.model} on {summary.dataset}: means over {summary.words} words in {summary.pictures} "
        f"pictures, {summary.level:.0%} intervals",
        x=0.01,
        ha="left",
        fontsize=8.5,
    )
    return figure, panels


def _value_axis(axes: Axes, places: Mapping[Any, float], *, numeric: bool) -> None:
    """Ticks at the values that were tried, as long as they have room."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    at = list(places.values())
    if numeric and min(at) > 0 and max(at) / min(at) >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(at) <= 8:
        texts = [f"{value:g}" if numeric else str(value) for value in places]
        tilted = sum(map(len, texts)) > 24
        axes.set_xticks(at, texts, rotation=30 if tilted else 0, ha="right" if tilted else "center")
    elif numeric:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=all(value == int(value) for value in at)))
    else:
        axes.set_xticks(at, [str(value) for value in places], rotation=90, fontsize=6)


def _ends(summary: Summary, label: str, metric: str) -> tuple[float, float, float]:
    """Mean, and the ends of its interval; NaN where there is none."""
    estimate = summary.methods[label][metric]
    mean, low, high = (
        math.nan if value is None else value for value in (estimate.mean, estimate.low, estimate.high)
    )
    return mean, low, high


def _sign(difference: Estimate | None, *, higher: bool) -> int:
    """1: better, -1: worse, 0: its interval holds 0, or it cannot be seen in the digits that are shown."""
    if difference is None or difference.low is None or difference.high is None or difference.mean is None:
        return 0
    if round(difference.mean, _DIGITS) == 0:
        return 0
    sign = int(difference.low > 0) - int(difference.high < 0)
    return sign if higher else -sign


def _signed(value: float) -> str:
    """A difference as text."""
    rounded = round(value, _DIGITS)
    return f"{rounded:+.{_DIGITS}f}".replace("-", "\N{MINUS SIGN}") if rounded else f"{0:.{_DIGITS}f}"


def _dotted() -> Any:
    """What stands in a legend for a dotted line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_FAINT, linestyle=":", linewidth=1)
