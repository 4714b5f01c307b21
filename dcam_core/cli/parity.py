"""`dcam parity`: compare a loaded checkpoint with recorded numbers."""

from __future__ import annotations

import click

from dcam_core.cli.session import Session

__all__ = ["parity"]


@click.command(short_help="Compare with recorded numbers.")
@click.argument("folder", metavar="FIXTURE_DIR")
@click.pass_obj
def parity(session: Session, *, folder: str) -> int:
    """Compare a checkpoint with the numbers its family's original code recorded.

    Prints one line per quantity with the largest error; exits with 1 if one is beyond its tolerance.
    """
    from dcam_core.parity import compare

    quantities = compare(folder, manager=session.manager)
    for quantity in quantities:
        click.echo(str(quantity))
    return int(any(quantity.status == "fail" for quantity in quantities))
