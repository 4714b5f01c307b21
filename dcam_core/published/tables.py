"""A reproduction as tables: for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from dcam_core.evaluation.bootstrap import LEVEL
from dcam_core.evaluation.summary import Estimate
from dcam_core.published.reproduction import MeasuredRow, MeasuredTable, Reproduction

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["markdown", "terminal"]

NOT_COMPARABLE = "not comparable with the published figures"


class _Line(NamedTuple):
    """A line of a table.

    Attributes:
        name: of the row; "" on its further lines.
        whose: whose figures.
        cells: one text per column, the interval behind a line break.
    """

    name: str
    whose: str
    cells: list[str]


def markdown(reproduction: Reproduction) -> str:
    """The reproduction as a page of Markdown."""
    lines = [f"# {reproduction.title}", "", f"Published figures: {reproduction.source}.", ""]
    lines += [f"* {remark}" for remark in _readings(reproduction)]
    for table in reproduction.tables:
        lines += ["", f"## {table.title}", "", _status(table, strong="**"), ""]
        for title, body in _bodies(reproduction, table):
            heads = ["method", "figures", *reproduction.headings.values()]
            lines += [title, "", _pipes(heads), _pipes(["---", "---", *("--:" for _ in heads[2:])])]
            lines += [_pipes([line.name, line.whose, *_flat(line.cells)]) for line in body]
            lines.append("")
        lines += [f"* {remark}" for remark in _remarks(reproduction, table)]
    return "\n".join([*lines, "", "## All tables", "", *(f"* {remark}" for remark in reproduction.remarks)])


def terminal(reproduction: Reproduction) -> Iterator[RenderableType]:
    """The reproduction for `rich.console.Console.print`."""
    from rich.table import Table
    from rich.text import Text

    yield Text(f"{reproduction.title}\npublished figures: {reproduction.source}", style="bold")
    for remark in _readings(reproduction):
        yield Text(remark)
    for table in reproduction.tables:
        yield Text(f"\n{table.title}", style="bold")
        yield Text(_status(table))
        for title, body in _bodies(reproduction, table):
            shown = Table(title=title, title_justify="left")
            shown.add_column("method", no_wrap=True)
            shown.add_column("figures")
            for heading in reproduction.headings.values():
                shown.add_column(heading, justify="right", no_wrap=True)
            for line in body:
                if line.name and shown.row_count:
                    shown.add_section()
                shown.add_row(Text(line.name), Text(line.whose), *map(Text, line.cells))
            yield shown
        for remark in _remarks(reproduction, table):
            yield Text(f"* {remark}")
    yield Text("\nAll tables", style="bold")
    for remark in reproduction.remarks:
        yield Text(f"* {remark}")


def _readings(reproduction: Reproduction) -> Iterator[str]:
    """What the words mean by which found figures are called."""
    for reading, title in reproduction.readings.items():
        if meaning := reproduction.meanings[reading]:
            yield f"{title}: {meaning}"


def _status(table: MeasuredTable, strong: str = "") -> str:
    """What the table was measured on, and whether it may be compared."""
    measured = table.measured
    if measured is None:
        wanted = " or ".join(f"--dataset {reader}:FOLDER" for reader in table.readers)
        return f"{strong}Not measured{strong}: needs a model (--model) and {table.data} ({wanted})."
    settings = ", ".join(f"{key}={value}" for key, value in measured.parameters.items())
    on = (
        f"Measured with {measured.model} on {measured.pictures} pictures of {measured.dataset} ({settings}), "
        f"{measured.words} words; kept in {measured.folder}."
    )
    if measured.not_comparable:
        return f"{on} {strong}{NOT_COMPARABLE.capitalize()}{strong}: {'; '.join(measured.not_comparable)}."
    return (
        f"{on} Nothing is known that speaks against comparing; which checkpoint and which pictures the published "
        "figures are over, no file tells."
    )


def _bodies(reproduction: Reproduction, table: MeasuredTable) -> Iterator[tuple[str, list[_Line]]]:
    """(title, lines) of the tables of a table: the figures, and the changes against one row."""
    figures = list(_lines(reproduction, table, changes=False))
    if table.measured is None:
        yield "As published", figures
    else:
        yield f"Mean over words, with its {LEVEL:.0%} interval", figures
        changes = list(_lines(reproduction, table, changes=True))
        yield f"Change against {table.compared_with}, with its {LEVEL:.0%} interval", changes


def _lines(reproduction: Reproduction, table: MeasuredTable, *, changes: bool) -> Iterator[_Line]:
    """The lines of the figures, or of their changes."""
    sign = "+" if changes else ""
    for row in table.rows:
        for number, (whose, cells) in enumerate(
            _of_a_row(reproduction, table, row, changes=changes, sign=sign)
        ):
            yield _Line("" if number else row.name, whose, cells)


def _of_a_row(
    reproduction: Reproduction, table: MeasuredTable, row: MeasuredRow, *, changes: bool, sign: str
) -> Iterator[tuple[str, list[str]]]:
    """(whose, cells) of every line of a row."""
    decimals = reproduction.decimals
    printed = row.published_changes if changes else row.published
    if printed:
        yield "published", _figures(printed, decimals, sign)
    measured = table.measured
    if measured is None:
        return
    for reading, estimates in (row.changes if changes else row.found).items():
        method = row.methods.get(reading)
        behind = f" ({method})" if method and method != row.name else ""
        yield (
            f"{measured.model}, {reproduction.readings[reading]}{behind}",
            [_estimate(estimates[column], digits, sign) for column, digits in decimals.items()],
        )
        # Of another model or other data a difference would only look like a comparison.
        if printed and not measured.not_comparable:
            apart = {
                column: mean - figure
                for column, figure in printed.items()
                if (mean := estimates[column].mean) is not None
            }
            yield "difference to published", _figures(apart, decimals, "+")


def _figures(values: Mapping[str, float], decimals: Mapping[str, int], sign: str) -> list[str]:
    return [
        f"{values[column]:{sign}.{digits}f}" if column in values else "-"
        for column, digits in decimals.items()
    ]


def _estimate(estimate: Estimate, digits: int, sign: str) -> str:
    """A figure, and below it its interval: so that all columns fit side by side."""
    if estimate.mean is None:
        return "-"
    text = f"{estimate.mean:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}\n[{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def _remarks(reproduction: Reproduction, table: MeasuredTable) -> Iterator[str]:
    """What must be known to read one table."""
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        for reading, why in row.missing.items():
            missing.setdefault(f"{reproduction.readings[reading]}: {why}", []).append(row.name)
    yield from (f"{', '.join(names)}, {what}" for what, names in missing.items())
    yield from table.remarks


def _flat(cells: list[str]) -> list[str]:
    return [cell.replace("\n", " ") for cell in cells]


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
