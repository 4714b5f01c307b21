"""Lists of names in one line of a message."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["listed"]

SHOWN = 5


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
