"""What `explain` and `demo` share: where the result goes, and what is said about it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcam_core.errors import UsageError

if TYPE_CHECKING:
    from dcam_core.results.explanation import Explanation

__all__ = ["result_folder", "tell"]


def result_folder(out: str | None, default: str) -> Path:
    """The folder for a result, checked before the work begins.

    Args:
        out: what the user asked for; None: `default`, or the first of "default-2", "default-3", ... that
            is free.
        default: name of the folder in the current directory.

    Raises:
        UsageError: the folder that was asked for is a file, or holds something.
    """
    if out is None:
        names = itertools.chain([default], (f"{default}-{number}" for number in itertools.count(2)))
        return next(Path(name) for name in names if _is_free(Path(name)))
    folder = Path(out).expanduser()
    if not _is_free(folder):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise UsageError(f"output folder {folder} {what}: give a folder that is empty or does not exist")
    return folder


def tell(explanation: Explanation, folder: Path) -> None:
    """The answer and the targets on stderr, for a person; the report's path on stdout, for a script."""
    click.echo(f"answer{_changed(explanation.settings)}: {explanation.answer}", err=True)
    contrast = "" if explanation.rather_than is None else f" rather than {explanation.rather_than}"
    for index, target in enumerate(explanation.targets):
        notes = f" ({'; '.join(target.notes)})" if target.notes else ""
        facts = f"probability {target.probability:.3f}{_reliance(explanation, index)}{_shares(explanation, index)}"
        click.echo(f"  {explanation.label(index)}{contrast}: {facts}{notes}", err=True)
    if explanation.reliance is not None and (ungrounded := explanation.reliance.ungrounded):
        words = ", ".join(dict.fromkeys(item.word for item in ungrounded))
        click.echo(f"  not grounded in the picture: {words}", err=True)
    if not explanation.targets:
        click.echo("  no word has a map; `-t all` makes one of every word", err=True)
    click.echo(str(folder / "report.html"))


def _changed(settings: Mapping[str, Any]) -> str:
    """In what the answer is not what the model said."""
    if "why_not" in settings:
        return f" with {settings['why_not']!r} in the place of {settings['in_place_of']!r}"
    return " that was given" if "given_answer" in settings else ""


def _reliance(explanation: Explanation, index: int) -> str:
    """How much a target depends on the picture, if that was measured."""
    positions = explanation.targets[index].positions
    own = explanation.reliance_of(positions)
    return f", reliance {own.nats:.1f} nats" if own else ""


def _shares(explanation: Explanation, index: int) -> str:
    """Where a target's evidence lies, if there are several pictures."""
    if len(explanation.pictures) == 1:
        return ""
    shares = enumerate(explanation.evidence_shares(index))
    return ", evidence " + ", ".join(f"{share:.0%} in picture {number}" for number, share in shares)


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
