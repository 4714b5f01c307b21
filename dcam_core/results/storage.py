"""An explanation on disk: a folder that is written whole or not at all.

```
explanation.json     facts: schema version, versions, model, prompt, answer, settings, seed, targets
maps.safetensors     `raw` and `maps`, [targets, rows, columns] float32
picture.png          the picture
overlay-00-WORD.png  per target: heat over the picture, with a colour bar
report.html          the report
```

That is schema version 1, of a prompt with one picture. Where a prompt has several, everything that belongs to a
picture carries its number, counted from 0, and the facts list the pictures (schema version 2):

```
maps.safetensors               `raw.0`, `maps.0`, `raw.1`, ...
picture-0.png                  the pictures
overlay-00-WORD-picture-0.png  per target and picture
```

Where it was measured how much the words depend on the picture, the facts have `reliance` besides (and each target its
own). Where the words were explained over the denoising, they have `over_time`, each target an `animation`, and there
are

```
over-time.safetensors    `raw` and `maps`, [steps, targets, rows, columns] float32
over-time-00-WORD.gif    per target: its map, the answer as it was written, and the word's probability, step by step
```

Both are additions that readers of either version may leave out.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, tensor

from dcam_core.errors import DcamError, SavedExplanationError
from dcam_core.results.explanation import Explanation
from dcam_core.results.over_time import MovingMaps, OverTime
from dcam_core.results.picture_maps import PictureMaps, peak_cell
from dcam_core.results.reliance import VisualReliance, WordReliance
from dcam_core.results.report.html import write_report
from dcam_core.results.words import ExplainedTarget, Word

__all__ = [
    "ONE_PICTURE",
    "SEVERAL_PICTURES",
    "UNFINISHED",
    "animation_name",
    "overlay_name",
    "read_explanation",
    "save_explanation",
]

ONE_PICTURE, SEVERAL_PICTURES = 1, 2  # schema versions; the first is what every version of dcam can read
UNFINISHED = ".*.unfinished"
"""Names of the folders in which explanations are written; one that is left over was not finished."""
_FACTS, _MAPS, _REPORT = "explanation.json", "maps.safetensors", "report.html"
_MOVING = "over-time.safetensors"
_Record = TypeVar("_Record", Word, ExplainedTarget, WordReliance)


class _Names(NamedTuple):
    """How the parts of one picture are called."""

    picture: str
    raw: str
    maps: str


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
        named = list(zip(_names(len(explanation.pictures)), explanation.pictures, strict=True))
        (unfinished / _MAPS).write_bytes(_tensors(explanation.pictures))
        for name, part in named:
            part.picture.save(unfinished / name.picture)
        for index in range(len(explanation.targets)):
            for number in range(len(explanation.pictures)):
                overlay = explanation.overlay(index, picture=number)
                overlay.save(unfinished / _overlay(explanation, index, number))
        if explanation.over_time is not None:
            (unfinished / _MOVING).write_bytes(_tensors(explanation.over_time.pictures))
            for index, record in enumerate(explanation.targets):
                explanation.to_gif(index, unfinished / animation_name(index, record.word))
        write_report(explanation, unfinished / _REPORT)
    return target


def read_explanation(folder: Path) -> Explanation:
    """Read what `save_explanation` wrote; maps and pictures come back bit for bit.

    Raises:
        SavedExplanationError: if a file is missing or damaged, or the folder has another schema version.
    """
    if not folder.is_dir():
        raise SavedExplanationError(f"{folder} is not a folder: give the folder that `save` wrote")
    _require(folder, _FACTS, _MAPS)
    facts = _read_facts(folder / _FACTS)
    names = _names(_count(facts, folder))
    _require(folder, *(name.picture for name in names))
    try:
        tensors = load_file(folder / _MAPS)
        return Explanation(
            pictures=tuple(
                PictureMaps(_read_picture(folder / name.picture), tensors[name.raw], tensors[name.maps])
                for name in names
            ),
            prompt=facts["prompt"],
            answer=facts["answer"],
            words=tuple(_restored(Word, record) for record in facts["words"]),
            targets=tuple(_restored(ExplainedTarget, record) for record in facts["targets"]),
            settings=facts["settings"],
            seed=facts["seed"],
            model=facts["model"],
            versions=facts["versions"],
            steps=tuple(facts["steps"]),
            reliance=_read_reliance(facts["reliance"]) if "reliance" in facts else None,
            over_time=_read_over_time(facts["over_time"], folder, names) if "over_time" in facts else None,
        )
    except KeyError as error:
        raise SavedExplanationError(
            f"{folder} is damaged: {error} is missing in it; save it again"
        ) from error
    except (OSError, SafetensorError, TypeError, AttributeError, DcamError) as error:
        raise SavedExplanationError(f"{folder} is damaged: {error}; save it again") from error


def overlay_name(index: int, word: str, picture: int | None = None) -> str:
    """Give a target's overlay a file name of plain ASCII, whatever the word.

    Args:
        index: index of the target.
        word: its word.
        picture: number of the picture, where there are several.

    Returns:
        "overlay-00-circle.png", or "overlay-00-circle-picture-1.png".
    """
    which = "" if picture is None else f"-picture-{picture}"
    return f"overlay-{index:02d}-{_slug(word)}{which}.png"


def animation_name(index: int, word: str) -> str:
    """Give a target's animation a file name of plain ASCII: "over-time-00-circle.gif"."""
    return f"over-time-{index:02d}-{_slug(word)}.gif"


def _slug(word: str) -> str:
    """A word as part of a file name."""
    ascii_word = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_word.lower()).strip("-")[:40].rstrip("-") or "word"


def _names(count: int) -> tuple[_Names, ...]:
    """The names of the parts of all pictures: numbered where there are several."""
    suffixes = [("", "")] if count == 1 else [(f"-{number}", f".{number}") for number in range(count)]
    return tuple(_Names(f"picture{file}.png", f"raw{key}", f"maps{key}") for file, key in suffixes)


def _tensors(parts: Sequence[PictureMaps | MovingMaps]) -> bytes:
    """Raw and refined maps over all pictures, as the bytes of a safetensors file."""
    names = _names(len(parts))
    raw = {name.raw: part.raw for name, part in zip(names, parts, strict=True)}
    return save(raw | {name.maps: part.maps for name, part in zip(names, parts, strict=True)})


def _overlay(explanation: Explanation, index: int, number: int) -> str:
    """File name of a target's overlay on a picture."""
    several = len(explanation.pictures) > 1
    return overlay_name(index, explanation.targets[index].word, number if several else None)


def _facts(explanation: Explanation) -> dict[str, Any]:
    pictures = [
        {
            "picture": {"width": part.picture.width, "height": part.picture.height},
            "grid": {"rows": part.maps.shape[1], "columns": part.maps.shape[2]},
        }
        for part in explanation.pictures
    ]
    several = len(pictures) > 1
    return {
        "schema_version": SEVERAL_PICTURES if several else ONE_PICTURE,
        "versions": explanation.versions,
        "model": explanation.model,
        "prompt": explanation.prompt,
        "answer": explanation.answer,
        "words": [asdict(word) for word in explanation.words],
        "steps": list(explanation.steps),
        "settings": explanation.settings,
        "seed": explanation.seed,
        **({"pictures": pictures} if several else pictures[0]),
        **_reliance_facts(explanation.reliance),
        **_over_time_facts(explanation.over_time),
        "targets": [
            asdict(target)
            | _map_facts(explanation, index)
            | _target_reliance(explanation, target)
            | _animation(explanation, index)
            for index, target in enumerate(explanation.targets)
        ],
    }


def _reliance_facts(reliance: VisualReliance | None) -> dict[str, Any]:
    """What is said about the words' dependence on the picture; nothing if it was not measured."""
    if reliance is None:
        return {}
    words = [
        asdict(item) | {"nats": item.nats, "grounded": reliance.is_grounded(item)} for item in reliance.words
    ]
    return {
        "reliance": {
            "baselines": list(reliance.baselines),
            "threshold": reliance.threshold,
            "words": words,
        }
    }


def _target_reliance(explanation: Explanation, target: ExplainedTarget) -> dict[str, Any]:
    """The visual reliance of one target, in nats, where it is known."""
    own = explanation.reliance_of(target.positions)
    return {"reliance": own.nats} if own else {}


def _read_reliance(facts: Mapping[str, Any]) -> VisualReliance:
    return VisualReliance(
        tuple(facts["baselines"]),
        facts["threshold"],
        tuple(_restored(WordReliance, record) for record in facts["words"]),
    )


def _over_time_facts(over_time: OverTime | None) -> dict[str, Any]:
    """What is said about the words over the denoising; nothing if that was not asked for."""
    if over_time is None:
        return {}
    probabilities = [
        [None if math.isnan(value) else value for value in row] for row in over_time.probabilities.tolist()
    ]
    return {
        "over_time": {
            "steps": list(over_time.steps),
            "taken": over_time.taken,
            "texts": list(over_time.texts),
            "probabilities": probabilities,
            "commit_steps": list(over_time.commit_steps),
        }
    }


def _animation(explanation: Explanation, index: int) -> dict[str, Any]:
    """The file that shows one target over the denoising, where there is one."""
    word = explanation.targets[index].word
    return {} if explanation.over_time is None else {"animation": animation_name(index, word)}


def _read_over_time(facts: Mapping[str, Any], folder: Path, names: Sequence[_Names]) -> OverTime:
    _require(folder, _MOVING)
    tensors = load_file(folder / _MOVING)
    rows = [[math.nan if value is None else value for value in row] for row in facts["probabilities"]]
    return OverTime(
        steps=tuple(facts["steps"]),
        taken=facts["taken"],
        texts=tuple(facts["texts"]),
        probabilities=tensor(rows),
        commit_steps=tuple(facts["commit_steps"]),
        pictures=tuple(MovingMaps(tensors[name.raw], tensors[name.maps]) for name in names),
    )


def _map_facts(explanation: Explanation, index: int) -> dict[str, Any]:
    """What is said about the maps of one target; with several pictures, about each, and its share."""
    pictures = [
        {
            "overlay": _overlay(explanation, index, number),
            "map": _statistics(part.maps[index]),
            "raw": _statistics(part.raw[index]),
        }
        for number, part in enumerate(explanation.pictures)
    ]
    if len(pictures) == 1:
        return pictures[0]
    shares = explanation.evidence_shares(index)
    return {
        "pictures": [facts | {"evidence_share": share} for facts, share in zip(pictures, shares, strict=True)]
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


def _require(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise SavedExplanationError(
                f"{folder} has no {name}, so it is no saved explanation, or a damaged one: save it again"
            )


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SavedExplanationError(f"{path} cannot be read as JSON: {error}; save it again") from error
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or version not in (ONE_PICTURE, SEVERAL_PICTURES):
        raise SavedExplanationError(
            f"{path} has schema version {version}, this dcam reads {ONE_PICTURE} and {SEVERAL_PICTURES}: read it "
            "with the version of dcam that wrote it (named there under `versions`)"
        )
    return facts


def _count(facts: Mapping[str, Any], folder: Path) -> int:
    """How many pictures a saved explanation has."""
    if facts["schema_version"] == ONE_PICTURE:
        return 1
    pictures = facts.get("pictures")
    if not isinstance(pictures, list) or len(pictures) < 2:
        raise SavedExplanationError(
            f"{folder} is damaged: its schema version {SEVERAL_PICTURES} means several pictures, and 'pictures' "
            f"in {_FACTS} does not list them; save it again"
        )
    return len(pictures)


def _read_picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


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
