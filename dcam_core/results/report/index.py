"""The first page of a folder of explanations: every picture with its answer, linked to its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dcam_core.errors import SavedExplanationError
from dcam_core.results.report.templating import page_environment

__all__ = ["render_index"]

_FACTS, _REPORT = "explanation.json", "report.html"


@dataclass(frozen=True)
class _Overlay:
    """A target's drawing; `address` is relative to the page."""

    word: str
    address: str


@dataclass(frozen=True)
class _Entry:
    """What the page says about one picture."""

    name: str
    report: str
    answer: str
    overlays: tuple[_Overlay, ...]


def render_index(explained: Mapping[str, Path], skipped: Mapping[str, str], prompt: str) -> str:
    """Give the page as text. It shows the files of the explanations: it is of use beside their folders alone.

    Args:
        explained: name of a picture -> folder of its explanation; the page is to stand beside these folders.
        skipped: name of a picture -> why there is no explanation of it.
        prompt: what was asked about every picture.

    Raises:
        SavedExplanationError: an explanation is damaged.
    """
    entries = [_entry(name, folder) for name, folder in explained.items()]
    return (
        page_environment()
        .get_template("index.html.jinja")
        .render(entries=entries, skipped=skipped, prompt=prompt)
    )


def _entry(name: str, folder: Path) -> _Entry:
    path = folder / _FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        overlays = tuple(
            _Overlay(str(target["word"]), _address(folder.name, target["overlay"]))
            for target in facts["targets"]
        )
        return _Entry(name, _address(folder.name, _REPORT), str(facts["answer"]), overlays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SavedExplanationError(
            f"{path} is damaged ({type(error).__name__}: {error}): delete its folder, and call again"
        ) from error


def _address(*parts: str) -> str:
    return "/".join(map(quote, parts))
