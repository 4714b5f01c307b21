"""An explanation on disk: a folder that is written whole or not at all.

```
explanation.json     facts: schema version, versions, model, prompt, answer, settings, seed, targets
maps.safetensors     `raw` and `maps`, [targets, rows, columns] float32
picture.png          the picture
overlay-00-WORD.png  per target: heat over the picture, with a colour bar
report.html          the report
```
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dcam_core.errors import DcamError, SavedExplanationError
from dcam_core.results.explanation import ExplainedTarget, Explanation, Word, peak_cell
from dcam_core.results.report.html import write_report

__all__ = ["SCHEMA_VERSION", "overlay_name", "read_explanation", "save_explanation"]

SCHEMA_VERSION = 1
_FACTS, _MAPS, _PICTURE, _REPORT = "explanation.json", "maps.safetensors", "picture.png", "report.html"
_Record = TypeVar("_Record", Word, ExplainedTarget)


def save_explanation(explanation: Explanation, folder: Path) -> Path:
    """Write an explanation into a new folder and give its path.

    Args:
        explanation: what to write.
        folder: a folder that does not exist yet, or is empty; missing parents are made.

    Raises:
        SavedExplanationError: if the folder holds something already, or cannot be written.
    """
    with _whole_folder(folder) as (target, unfinished):
        facts = json.dumps(_facts(explanation), ensure_ascii=False, indent=2, allow_nan=False)
        (unfinished / _FACTS).write_text(facts + "\n", encoding="utf-8")
        (unfinished / _MAPS).write_bytes(save({"raw": explanation.raw, "maps": explanation.maps}))
        explanation.picture.save(unfinished / _PICTURE)
        for index, one in enumerate(explanation.targets):
            explanation.overlay(index).save(unfinished / overlay_name(index, one.word))
        write_report(explanation, unfinished / _REPORT)
    return target


def read_explanation(folder: Path) -> Explanation:
    """Read what `save_explanation` wrote; `raw`, `maps` and the picture come back bit for bit.

    Raises:
        SavedExplanationError: if a file is missing or damaged, or the folder has another schema version.
    """
    if not folder.is_dir():
        raise SavedExplanationError(f"{folder} is not a folder: give the folder that `save` wrote")
    for name in (_FACTS, _MAPS, _PICTURE):
        if not (folder / name).is_file():
            raise SavedExplanationError(
                f"{folder} has no {name}, so it is no saved explanation, or a damaged one: save it again"
            )
    facts = _read_facts(folder / _FACTS)
    try:
        tensors = load_file(folder / _MAPS)
        with Image.open(folder / _PICTURE) as opened:
            picture = opened.convert("RGB")
        return Explanation(
            picture=picture,
            raw=tensors["raw"],
            maps=tensors["maps"],
            prompt=facts["prompt"],
            answer=facts["answer"],
            words=tuple(_restored(Word, record) for record in facts["words"]),
            targets=tuple(_restored(ExplainedTarget, record) for record in facts["targets"]),
            settings=facts["settings"],
            seed=facts["seed"],
            model=facts["model"],
            versions=facts["versions"],
            steps=tuple(facts["steps"]),
        )
    except KeyError as error:
        raise SavedExplanationError(
            f"{folder} is damaged: {error} is missing in it; save it again"
        ) from error
    except (OSError, SafetensorError, TypeError, AttributeError, DcamError) as error:
        raise SavedExplanationError(f"{folder} is damaged: {error}; save it again") from error


def overlay_name(index: int, word: str) -> str:
    """Give a target's overlay a file name of plain ASCII, whatever the word: "overlay-00-circle.png"."""
    ascii_word = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_word.lower()).strip("-")[:40].rstrip("-")
    return f"overlay-{index:02d}-{slug or 'word'}.png"


def _facts(explanation: Explanation) -> dict[str, Any]:
    count, rows, columns = explanation.maps.shape
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": explanation.versions,
        "model": explanation.model,
        "prompt": explanation.prompt,
        "answer": explanation.answer,
        "words": [asdict(word) for word in explanation.words],
        "steps": list(explanation.steps),
        "settings": explanation.settings,
        "seed": explanation.seed,
        "picture": {"width": explanation.picture.width, "height": explanation.picture.height},
        "grid": {"rows": rows, "columns": columns},
        "targets": [
            asdict(explanation.targets[i])
            | {
                "overlay": overlay_name(i, explanation.targets[i].word),
                "map": _statistics(explanation.maps[i]),
                "raw": _statistics(explanation.raw[i]),
            }
            for i in range(count)
        ],
    }


def _statistics(grid: Tensor) -> dict[str, Any]:
    """Sum up a map; `argmax` is (row, column) of its first highest cell, None if no cell is above zero."""
    cell = peak_cell(grid)
    return {
        "min": grid.min().item(),
        "max": grid.max().item(),
        "mean": grid.double().mean().item(),
        "argmax": None if cell is None else list(cell),
    }


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SavedExplanationError(f"{path} cannot be read as JSON: {error}; save it again") from error
    if not isinstance(facts, dict) or facts.get("schema_version") != SCHEMA_VERSION:
        version = facts.get("schema_version") if isinstance(facts, dict) else None
        raise SavedExplanationError(
            f"{path} has schema version {version}, this dcam reads {SCHEMA_VERSION}: read it with the "
            "version of dcam that wrote it (named there under `versions`)"
        )
    return facts


def _restored(kind: type[_Record], record: Mapping[str, Any]) -> _Record:
    """Make a dataclass of a JSON record, lists becoming tuples; further keys of the record are not its."""
    values: dict[str, Any] = {}
    for entry in fields(kind):
        value = record[entry.name]
        values[entry.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give (the folder, a temporary one beside it); rename the second to the first if all goes well."""
    target = folder.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise SavedExplanationError(f"{folder} is a file: choose a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        raise SavedExplanationError(
            f"{folder} is not empty: choose a new folder, nothing there is overwritten"
        )
    unfinished = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(
            tempfile.mkdtemp(prefix=f".{target.name[:50]}-", suffix=".unfinished", dir=target.parent)
        )
        yield target, unfinished
        unfinished.chmod(0o777 & ~_umask())  # mkdtemp keeps others out; the result is an ordinary folder
        unfinished.rename(target)
    except OSError as error:
        raise SavedExplanationError(
            f"the explanation cannot be saved in {folder}: {error.strerror or error}; choose another folder"
        ) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
