"""A ledger: what has been evaluated, sample by sample, written so that it can be cut off anywhere.

Three files: `words.jsonl`, `samples.jsonl`, `skipped.jsonl`. The line in `samples.jsonl` is written last, says where
the words of its sample end, and makes the sample count. Words behind those of the last such sample were cut off, and
are dropped when the ledger is continued; so is a line without its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcam_core.errors import SavedExplanationError
from dcam_core.evaluation.sample import EvaluatedSample

__all__ = ["Ledger", "LedgerEntry"]

_WORDS, _SAMPLES, _SKIPPED = "words.jsonl", "samples.jsonl", "skipped.jsonl"


@dataclass(frozen=True)
class LedgerEntry:
    """What a ledger holds of one sample.

    Attributes:
        line: its line in `samples.jsonl`, or in `skipped.jsonl`.
        words: its lines in `words.jsonl`, of which there may be none; None if the sample was skipped.
    """

    line: Mapping[str, Any]
    words: bytes | None


class Ledger:
    """The lines of one folder. One process writes, any number may read meanwhile.

    Args:
        path: the folder; it need not exist before something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, index: int, sample: EvaluatedSample) -> None:
        """Keep a sample: its words first, and then the line that makes them count."""
        facts = {
            "index": index,
            "sample": sample.key,
            "answer": sample.answer,
            "unscored": [asdict(word) for word in sample.unscored],
            "reliance": None if sample.reliance is None else [dict(word) for word in sample.reliance],
            "seconds": dict(sample.seconds),
            "left_out": [{"what": each.what, "why": each.why} for each in sample.left_out],
        }
        self._keep(b"".join(map(_line, sample.rows)), facts)

    def skip(self, index: int, why: str) -> None:
        """Keep that a sample could not be read."""
        self._append(_SKIPPED, _line({"index": index, "why": why}))

    def copy(self, entry: LedgerEntry) -> None:
        """Keep what another ledger holds of a sample."""
        if entry.words is None:
            self._append(_SKIPPED, _line(entry.line))
        else:
            self._keep(entry.words, entry.line)

    def drop_what_was_cut_off(self) -> None:
        """Cut every file back to what counts; what counts is read first, so damaged files stay as they are."""
        ends = {_WORDS: self._words_end}
        self._read(_WORDS, ends[_WORDS])
        for name in (_SAMPLES, _SKIPPED):
            path = self.path / name
            ends[name] = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0
        for name, end in ends.items():
            with (self.path / name).open("ab") as file:
                file.truncate(end)

    # -- reading ---------------------------------------------------------------------------------------------

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
        return self._read(_WORDS, self._words_end)

    @property
    def done(self) -> frozenset[int]:
        """Indices of the samples that it speaks of."""
        return frozenset(line["index"] for line in (*self.samples, *self.skipped))

    @property
    def entries(self) -> dict[int, LedgerEntry]:
        """Everything, by the index of the sample."""
        found = {line["index"]: LedgerEntry(line, None) for line in self.skipped}
        samples = self.samples
        words = self._whole(_WORDS, samples[-1]["words_end"] if samples else 0)
        start = 0
        for line in samples:
            found[line["index"]] = LedgerEntry(line, words[start : line["words_end"]])
            start = line["words_end"]
        return found

    @property
    def _words_end(self) -> int:
        samples = self.samples
        return samples[-1]["words_end"] if samples else 0

    def _whole(self, name: str, end: int | None = None) -> bytes:
        """A file up to a byte; without one, up to the end of its last line."""
        path = self.path / name
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1] if end is None else content[:end]
        if end is not None and len(whole) < end:
            raise SavedExplanationError(
                f"{path} has {len(whole)} bytes, and {_SAMPLES} speaks of {end}: it was cut by somebody else; "
                "give another folder"
            )
        return whole

    def _read(self, name: str, end: int | None = None) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self._whole(name, end).splitlines()]
        except ValueError as error:
            raise SavedExplanationError(
                f"{self.path / name} is damaged: {error}; give another folder"
            ) from error

    # -- files -----------------------------------------------------------------------------------------------

    def _keep(self, words: bytes, facts: Mapping[str, Any]) -> None:
        self._append(_WORDS, words)
        end = (self.path / _WORDS).stat().st_size
        self._append(_SAMPLES, _line({**facts, "words_end": end}))

    def _append(self, name: str, content: bytes) -> None:
        """Append, and wait until it is on the disk: what is written after it may count on it."""
        with (self.path / name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _line(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n").encode()
