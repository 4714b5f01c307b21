"""What datasets on disk have in common: finding files, reading pictures upright, saying what was left out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dcam_core.dataset import ExplanationDataset, LeftOut
from dcam_core.errors import DatasetError
from dcam_core.picture import read_picture

__all__ = [
    "FolderDataset",
    "Listing",
    "Turn",
    "existing",
    "list_in",
    "locate",
    "numbered",
    "open_upright",
    "read_json",
    "read_list",
    "stated_size",
    "turned",
]

Turn = Image.Transpose
"""How what was annotated on the stored picture comes to lie on the upright one."""

_TURNS = MappingProxyType({5: Turn.TRANSPOSE, 6: Turn.ROTATE_270, 7: Turn.TRANSVERSE, 8: Turn.ROTATE_90})
"""The EXIF orientations that exchange width and height."""

_ORIENTATION = 0x0112

Record = TypeVar("Record")


class FolderDataset(ExplanationDataset, Generic[Record]):
    """A list of records, one per sample, that are read when they are asked for.

    Args:
        root: the folder of the data, for messages.
        prompt: what is asked about every picture.
        records: what is known of every sample.
        left_out: what the data name and the records do not hold.

    Raises:
        DatasetError: there is no record.
    """

    def __init__(
        self, root: Path, prompt: str, records: Sequence[Record], left_out: Sequence[LeftOut]
    ) -> None:
        if not records:
            reasons = Counter(each.why for each in left_out)
            counted = ", ".join(f"{why} ({count})" for why, count in reasons.most_common(3))
            raise DatasetError(f"{root} holds no picture that can be used: {counted or 'it lists none'}")
        self.root, self.prompt = root, prompt
        self._records, self._left_out = records, tuple(left_out)

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """See `ExplanationDataset.left_out`."""
        return self._left_out

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is asked for, but there are samples 0 to {len(self) - 1}")
        return self._records[index]


class Listing:
    """Tells whether files exist, reading every folder once: a question per picture would be slow on a network.

    Args:
        folder: what paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        parent, _, last = name.replace("\\", "/").rpartition("/")
        if parent not in self._names:
            path = self.folder / parent
            self._names[parent] = frozenset(os.listdir(path) if path.is_dir() else ())  # noqa: PTH208
        return last in self._names[parent]


def locate(folders: Iterable[Path], names: Sequence[Sequence[str]]) -> tuple[Path, list[str | None]]:
    """Find the folder that holds the most of some files.

    Args:
        folders: where to look, the likeliest first; at least one.
        names: for every file the names that it may have, relative to the folder.

    Returns:
        The folder, and for every file its name there; None for a file that is not.

    Raises:
        DatasetError: no folder holds any of the files.
    """
    best: tuple[int, Path, list[str | None]] | None = None
    looked = list(dict.fromkeys(folders))
    for folder in looked:
        listing = Listing(folder)
        found = [next((name for name in choices if name in listing), None) for choices in names]
        count = len(found) - found.count(None)
        if best is None or count > best[0]:
            best = count, folder, found
    if best is None or (not best[0] and names):
        places = ", ".join(str(folder) for folder in looked)
        raise DatasetError(
            f"none of {len(names)} pictures was found: {names[0][0]!r} and the others are in none of {places}; "
            "give their folder as images"
        )
    return best[1], best[2]


def existing(root: Path, choices: Iterable[str], what: str) -> Path:
    """The first of several paths that exists.

    Args:
        root: what the paths are relative to.
        choices: paths, the likeliest first.
        what: what is looked for, for the message.

    Raises:
        DatasetError: none exists.
    """
    paths = [root / choice for choice in choices]
    for path in paths:
        if path.exists():
            return path
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: give the folder of the data as root")
    names = ", ".join(str(path.relative_to(root)) for path in paths)
    raise DatasetError(f"{root} has no {what}: looked for {names}")


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        kind: what it holds, `dict` or `list`.

    Raises:
        DatasetError: it does not exist, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, kind):
        raise DatasetError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content


def list_in(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    """A list of COCO's format.

    Args:
        content: what the JSON file holds.
        key: the name of the list.
        path: the file, for the message.

    Raises:
        DatasetError: there is no such list.
    """
    listed = content.get(key)
    if not isinstance(listed, list):
        raise DatasetError(f"{path} has no list {key!r}: it is not in COCO's format")
    return listed


def read_list(path: Path, key: str) -> list[Any]:
    """A list of a JSON file in COCO's format; see `read_json` and `list_in`."""
    return list_in(read_json(path, dict), key, path)


def numbered(keys: Iterable[str]) -> list[str]:
    """Keys of which none occurs twice: the second `a.jpg` becomes `a.jpg#2`."""
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for key in keys:
        seen[key] += 1
        unique.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return unique


def open_upright(path: Path, annotated: tuple[int, int] | None) -> tuple[Image.Image, Turn | None]:
    """A picture as one looks at it, and how its masks must be turned to fit.

    A camera may store a picture lying on its side, with a note how to turn it. Some annotators saw the stored pixels,
    others the upright picture; the annotated size tells which.

    Args:
        path: the file.
        annotated: (width, height) of the picture in the annotations; None where they do not say.

    Returns:
        The upright RGB picture, and the turn for masks of the annotated size; None if they fit as they are.

    Raises:
        PictureError: the file cannot be read.
        DatasetError: the picture has another size than was annotated.
    """
    picture = read_picture(path)
    if annotated is None or picture.size == annotated:
        return picture, None
    with Image.open(path) as file:
        stored, turn = file.size, _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    if stored == annotated and turn is not None:
        return picture, turn
    found, expected = ("x".join(map(str, size)) for size in (picture.size, annotated))
    raise DatasetError(f"{path} has {found} pixels, but its annotations are for {expected}")


def turned(mask: NDArray[np.bool_], turn: Turn | None) -> NDArray[np.bool_]:
    """A mask `[H, W]` of the stored picture, for the upright one."""
    if turn is None:
        return mask
    image = Image.fromarray(mask.astype(np.uint8)).transpose(turn)
    return np.asarray(image, dtype=np.uint8) > 0


def stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) that an entry of a JSON file states for its picture, or None."""
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
