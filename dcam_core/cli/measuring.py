"""What commands that measure share: options and lists in them, runs that can be continued, tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["continuable", "listed", "print_tables", "sampler_option"]

_WIDTH_OF_A_FILE = 160

sampler_option = click.option(
    "--sampler",
    "sampler_settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="How answers are written: steps=32. May be repeated.  [default: the model's own]",
)


def listed(text: str) -> list[str]:
    """What stands between commas; those within brackets belong to a value, as in percentiles=[50,90]."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


@contextmanager
def continuable(out: str | Path | None) -> Iterator[None]:
    """Says where the results of an interrupted run are kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"what is done is kept in {out}: the same call continues", err=True)
        raise


def print_tables(parts: Iterable[RenderableType]) -> None:
    """Prints tables as wide as the terminal; into a file, as wide as most of them are."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    for part in parts:
        console.print(part)
