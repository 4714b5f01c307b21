"""The folder of an evaluation: written sample by sample, so that a run can be cut off anywhere and continued.

```
run.json        what was asked for, and what came of it: model, merged methods, versions
words.jsonl     one line per word and method
samples.jsonl   one line per sample: answer, words that are not scored and why, seconds, where its words end
skipped.jsonl   one line per sample that could not be read, with the reason
pictures/       one file per sample with words: the picture, masks and maps, small
summary.*       tables
table.html      the table with the pictures behind every number
```

The line in `samples.jsonl` is written last and makes a sample count. Words behind those of the last such sample
were cut off, and are dropped when the run is continued; so is a line without its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcam_core.errors import SavedExplanationError, UsageError
from dcam_core.evaluation.pictures import SamplePictures
from dcam_core.evaluation.sample import EvaluatedSample

__all__ = ["RunFolder"]

_RUN, _WORDS, _SAMPLES, _SKIPPED = "run.json", "words.jsonl", "samples.jsonl", "skipped.jsonl"
_PICTURES = "pictures"
_DIFFERENCES_SHOWN = 4


class RunFolder:
    """An evaluation on disk.

    Args:
        path: a folder that does not exist, is empty, or holds an evaluation that was asked for in the same words.
        request: what is asked for, as plain data.

    Attributes:
        path: the folder.
        facts: what came of the request, as `settle` was told; None before.

    Raises:
        UsageError: the folder holds something else, or the evaluation that it holds is another one.
        SavedExplanationError: its files are damaged.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self._request = _plain(request)
        self.facts: dict[str, Any] | None = None
        if path.exists() and not path.is_dir():
            raise UsageError(f"output folder {path} is a file: give a folder")
        if (path / _RUN).is_file():
            kept = self._read_run()
            self._compare(kept["request"], self._request)
            self.facts = kept["facts"]
        elif path.is_dir() and any(path.iterdir()):
            raise UsageError(
                f"output folder {path} is not empty and holds no evaluation: give a folder that is empty or does "
                "not exist"
            )

    # -- what was asked for ----------------------------------------------------------------------------------

    def settle(self, facts: Mapping[str, Any]) -> None:
        """Say what the request comes to, and make ready for writing.

        Args:
            facts: plain data; `samples` is the number of samples.

        Raises:
            UsageError: the evaluation was begun with other facts.
        """
        plain = _plain(facts)
        if self.facts is None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"output folder {self.path} cannot be made: {error}") from error
            self.write(
                _RUN, json.dumps({"request": self._request, "facts": plain}, indent=2, ensure_ascii=False)
            )
        else:
            self._compare(self.facts, plain)
        self.facts = plain
        self._drop_what_was_cut_off()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        half = self.path / f"{name}.part"
        half.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        half.replace(self.path / name)

    # -- sample by sample ------------------------------------------------------------------------------------

    def add(self, index: int, sample: EvaluatedSample) -> None:
        """Keep a sample: its pictures and words first, and then the line that makes them count."""
        if sample.pictures is not None:
            _write_whole(self._pictures_of(index), sample.pictures.to_bytes())
        _append(self.path / _WORDS, "".join(map(_line, sample.rows)))
        facts = {
            "index": index,
            "sample": sample.key,
            "answer": sample.answer,
            "unscored": [asdict(word) for word in sample.unscored],
            "reliance": None if sample.reliance is None else [dict(word) for word in sample.reliance],
            "seconds": dict(sample.seconds),
            "words_end": (self.path / _WORDS).stat().st_size,
        }
        _append(self.path / _SAMPLES, _line(facts))

    def skip(self, index: int, why: str) -> None:
        """Keep that a sample could not be read."""
        _append(self.path / _SKIPPED, _line({"index": index, "why": why}))

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of `samples.jsonl`."""
        return self._read(_SAMPLES)

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """The lines of `skipped.jsonl`."""
        return self._read(_SKIPPED)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of `words.jsonl` that count."""
        samples = self.samples
        return self._read(_WORDS, samples[-1]["words_end"] if samples else 0)

    def pictures(self, index: int) -> SamplePictures | None:
        """What is looked at behind a sample's scores; None if it was not kept.

        Raises:
            SavedExplanationError: its file is damaged.
        """
        path = self._pictures_of(index)
        return SamplePictures.read(path) if path.is_file() else None

    @property
    def done(self) -> frozenset[int]:
        """Indices of the samples that need not be evaluated any more."""
        return frozenset(line["index"] for line in (*self.samples, *self.skipped))

    @property
    def finished(self) -> bool:
        """Whether every sample is done."""
        return self.facts is not None and len(self.done) == self.facts["samples"]

    def _pictures_of(self, index: int) -> Path:
        return self.path / _PICTURES / f"{index:06d}.npz"

    # -- reading ---------------------------------------------------------------------------------------------

    def _read_run(self) -> dict[str, Any]:
        path = self.path / _RUN
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return {"request": dict(kept["request"]), "facts": dict(kept["facts"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SavedExplanationError(
                f"{path} is damaged, it holds no evaluation's request and facts: give another folder"
            ) from error

    def _read(self, name: str, end: int | None = None) -> list[dict[str, Any]]:
        """The lines of a file up to a byte; without one, all that have an end."""
        path = self.path / name
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1] if end is None else content[:end]
        if end is not None and len(whole) < end:
            raise SavedExplanationError(
                f"{path} has {len(whole)} bytes, and {_SAMPLES} speaks of {end}: it was cut by somebody else; "
                "give another folder"
            )
        lines = whole.splitlines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise SavedExplanationError(f"{path} is damaged: {error}; give another folder") from error

    def _drop_what_was_cut_off(self) -> None:
        """Cut every file back to what counts; what counts is read first, so damaged files stay as they are."""
        samples = self.samples
        ends = {_WORDS: samples[-1]["words_end"] if samples else 0}
        self._read(_WORDS, ends[_WORDS])
        for name in (_SAMPLES, _SKIPPED):
            path = self.path / name
            ends[name] = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0
        for name, end in ends.items():
            with (self.path / name).open("ab") as file:
                file.truncate(end)

    def _compare(self, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Refuse to continue another evaluation."""
        found = list(_differences(kept, now))
        if not found:
            return
        if len(found) > _DIFFERENCES_SHOWN:
            found = [*found[:_DIFFERENCES_SHOWN], f"and {len(found) - _DIFFERENCES_SHOWN} more"]
        raise UsageError(
            f"output folder {self.path} holds another evaluation: {'; '.join(found)}; give another folder, or call "
            "as before to continue"
        )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON, so that it can be compared with what does."""
    plain = json.loads(json.dumps(data, default=str))
    return dict(plain)


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


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and wait until it is on the disk."""
    path.parent.mkdir(exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def _append(path: Path, text: str) -> None:
    """Append, and wait until it is on the disk: what is written after it may count on it."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
