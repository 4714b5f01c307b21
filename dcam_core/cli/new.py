"""`dcam new`: a complete example distribution to begin one's own adapter, refiner or attribution with."""

from __future__ import annotations

from pathlib import Path

import click

from dcam_core.cli.session import Session
from dcam_core.scaffold import KINDS, Names, refuse_taken, write_distribution

__all__ = ["new"]


@click.command(short_help="Begin a plugin: write an installable, tested example.")
@click.argument("kind", type=click.Choice(tuple(KINDS)))
@click.argument("name")
@click.option("-o", "--out", metavar="DIR", help="New folder for it.  [default: ./NAME]")
@click.pass_obj
def new(session: Session, *, kind: str, name: str, out: str | None) -> None:
    """Write a complete distribution that brings an adapter, a refiner or an attribution.

    NAME is the distribution's name, by custom dcam-SOMETHING; what it brings is asked for as SOMETHING. The example
    works and passes its own tests as it is: replace what is marked YOURS. Nothing is overwritten.

    Example: dcam new refiner dcam-box-blur
    """
    names = Names.of(name)
    refuse_taken(names, KINDS[kind], session.manager)
    folder = Path(names.distribution if out is None else out)
    for path in write_distribution(kind, names, folder, session.manager):
        click.echo(str(folder / path))
    click.echo(
        f"{kind} {names.registered!r}: install it with `pip install -e {folder}`; {folder / 'README.md'} goes on "
        "from there",
        err=True,
    )
