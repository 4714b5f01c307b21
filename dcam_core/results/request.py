"""What was asked for, kept beside results, so that a folder is only continued with what it was begun with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dcam_core.errors import UsageError

__all__ = ["plain", "refuse_another"]

_DIFFERENCES_SHOWN = 4


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON, so that it can be compared with what does."""
    return dict(json.loads(json.dumps(data, default=str)))


def refuse_another(folder: Path, what: str, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue what was begun in another way.

    Args:
        folder: where the results are.
        what: what it holds, in the singular, without an article: "evaluation".
        kept: what was asked for when it was begun, from `plain`.
        now: what is asked for now, from `plain`.

    Raises:
        UsageError: they differ; it says in what.
    """
    found = list(_differences(kept, now))
    if not found:
        return
    if len(found) > _DIFFERENCES_SHOWN:
        found = [*found[:_DIFFERENCES_SHOWN], f"and {len(found) - _DIFFERENCES_SHOWN} more"]
    raise UsageError(
        f"output folder {folder} holds another {what}: {'; '.join(found)}; give another folder, or call as before to "
        "continue"
    )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What differs between nested mappings, each as a few words; lists are compared as a whole."""
    for key in dict.fromkeys((*before, *after)):
        name = f"{prefix}{key}"
        if key not in after:
            yield f"{name} is missing now"
        elif key not in before:
            yield f"{name} is new"
        elif isinstance(before[key], Mapping) and isinstance(after[key], Mapping):
            yield from _differences(before[key], after[key], f"{name}.")
        elif before[key] != after[key]:
            yield f"{name} was {before[key]!r}, is {after[key]!r}"
