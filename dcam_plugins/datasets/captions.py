"""Pictures with texts and nothing else: enough for faithfulness, which needs no masks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dcam_core.dataset import LeftOut, Sample
from dcam_core.errors import DatasetError
from dcam_core.picture import read_picture
from dcam_plugins.datasets._folder import FolderDataset, Listing, existing, numbered

__all__ = ["CaptionRecord", "Captions"]

_STEMS = ("captions", "metadata")
_PICTURES = ("file_name", "image", "picture")
_TEXTS = ("caption", "text")


@dataclass(frozen=True)
class CaptionRecord:
    """A picture and a text about it.

    Attributes:
        key: the picture's name in the file.
        name: the picture's file, relative to the root.
        caption: the text.
        prompt: what is asked about this picture, if the file says.
    """

    key: str
    name: str
    caption: str | None
    prompt: str | None


class Captions(FolderDataset[CaptionRecord]):
    """A folder of pictures, and a file with a line for each.

    The file is `captions` or `metadata` with one of these endings:

    * `.jsonl`: an object per line, `{"file_name": "a.jpg", "caption": "a cat on a mat"}`;
    * `.csv`: the same names in the first line;
    * `.txt`: picture, tabulator, text.

    "image" and "picture" also name the file, "text" the caption; "prompt" is asked instead of the dataset's. A
    picture without a caption is kept, a second line about the same picture is a second sample.

    Args:
        root: the folder of the data.
        file: the file, relative to `root`, if it has another name.
        prompt: what is asked about every picture.

    Raises:
        DatasetError: there is no such file, it is broken, or none of its pictures is there.
    """

    def __init__(
        self, root: str | Path, file: str | None = None, prompt: str = "describe the picture"
    ) -> None:
        root = Path(root).expanduser()
        choices = [f"{stem}{ending}" for stem in _STEMS for ending in _READERS] if file is None else [file]
        path = existing(root, choices, "file with captions")
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise DatasetError(f"{path} ends in {path.suffix!r}: give a file in {', '.join(_READERS)}")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        records, left_out = _records(reader(text), Listing(path.parent))
        self._pictures = path.parent
        super().__init__(root, prompt, records, left_out)

    def __getitem__(self, index: int) -> Sample:
        """See `ExplanationDataset.__getitem__`.

        Raises:
            IndexError: there is no such sample.
            PictureError: the picture cannot be read.
        """
        record = self._record(index)
        picture = read_picture(self._pictures / record.name)
        return Sample(record.key, picture, record.prompt or self.prompt, (), record.caption)


_Line = tuple[int, Mapping[str, Any] | None]
"""Its number, and what it holds; None if it is broken."""


def _json_lines(text: str) -> Iterator[_Line]:
    # Not splitlines: a text may hold characters that it takes for ends of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        yield number, content if isinstance(content, dict) else None


def _comma_separated(text: str) -> Iterator[_Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        yield reader.line_num, row


def _tabulated(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            name, _, caption = line.partition("\t")
            yield number, {"file_name": name.strip(), "caption": caption}


_READERS: Mapping[str, Callable[[str], Iterator[_Line]]] = MappingProxyType(
    {".jsonl": _json_lines, ".csv": _comma_separated, ".txt": _tabulated}
)


def _field(line: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    texts = (line.get(name) for name in names)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


def _records(lines: Iterator[_Line], files: Listing) -> tuple[list[CaptionRecord], list[LeftOut]]:
    """What is said of pictures that are there, and the other lines."""
    left_out: list[LeftOut] = []
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in lines:
        name = _field(line, _PICTURES) if line is not None else None
        if line is None or name is None:
            left_out.append(LeftOut(f"line {number}", "it is broken or names no picture"))
        elif name not in files:
            left_out.append(LeftOut(f"line {number} ({name})", "its picture is missing"))
        else:
            found.append((name, line))
    keys = numbered(name for name, _ in found)
    return [
        CaptionRecord(key, name, _field(line, _TEXTS), _field(line, ("prompt",)))
        for key, (name, line) in zip(keys, found, strict=True)
    ], left_out
