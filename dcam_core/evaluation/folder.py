"""The folder of an evaluation: written sample by sample, so that a run can be cut off anywhere and continued.

```
run.json        what was asked for, and what came of it: model, merged methods, versions
words.jsonl     one line per word and method
samples.jsonl   one line per sample: answer, words that are not scored and why, seconds, where its words end
skipped.jsonl   one line per sample that could not be read, with the reason
pictures/       one file per sample with words: the picture, masks and maps, small
summary.*       tables
table.html      the table with the pictures behind every number
ranks/          only while several processes are at work, or were cut off: the lines of each, until they are merged
```

The lines are a `Ledger`. The folder's own holds the samples in the order of the dataset, whoever evaluated them: what
processes write beside it is copied as far as there is no gap, so that numbers do not depend on who was faster. Each
process begins a ledger that nobody else writes in and no later process continues: one that was given up for dead may
still be writing.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcam_core.distributed.one_launch import OneLaunch, is_empty
from dcam_core.errors import SavedExplanationError, UsageError
from dcam_core.evaluation.ledger import Ledger, LedgerEntry
from dcam_core.evaluation.pictures import SamplePictures
from dcam_core.evaluation.sample import EvaluatedSample
from dcam_core.results.request import plain, refuse_another

__all__ = ["RunFolder"]

_RUN, _PICTURES, _RANKS = "run.json", "pictures", "ranks"


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
        self._request = plain(request)
        self.facts: dict[str, Any] | None = None
        self._own = Ledger(path)
        self._written = self._own
        self._elsewhere: dict[int, LedgerEntry] = {}
        self._launch = OneLaunch(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"output folder {path} is a file: give a folder")
        if (path / _RUN).is_file():
            self._continue()
        elif path.is_dir() and not is_empty(path):
            raise UsageError(
                f"output folder {path} is not empty and holds no evaluation: give a folder that is empty or does "
                "not exist"
            )

    # -- what was asked for ----------------------------------------------------------------------------------

    def settle(self, facts: Mapping[str, Any]) -> None:
        """Say what the request comes to, and make ready for writing: until `close`, no other launch can.

        Args:
            facts: plain data; `samples` is the number of samples.

        Raises:
            UsageError: the evaluation was begun with other facts, or another launch is writing.
        """
        settled = plain(facts)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output folder {self.path} cannot be made: {error}") from error
        self._launch.hold()
        if self.facts is None and (self.path / _RUN).is_file():
            self._continue()  # another launch has made it since
        if self.facts is None:
            self.write(
                _RUN, json.dumps({"request": self._request, "facts": settled}, indent=2, ensure_ascii=False)
            )
        else:
            refuse_another(self.path, "evaluation", self.facts, settled)
        self.facts = settled
        self._own.drop_what_was_cut_off()
        self._look_elsewhere()

    def _continue(self) -> None:
        """Take over what was begun; where nothing came of it, as of a setting that was wrong, begin anew."""
        kept = self._read_run()
        if self._own.done or self._ledgers():
            refuse_another(self.path, "evaluation", kept["request"], self._request)
            self.facts = kept["facts"]

    def close(self) -> None:
        """Let other launches write."""
        self._launch.release()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        half = self.path / f"{name}.part"
        half.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        half.replace(self.path / name)

    # -- sample by sample ------------------------------------------------------------------------------------

    def add(self, index: int, sample: EvaluatedSample) -> None:
        """Keep a sample: its pictures, then its lines."""
        if sample.pictures is not None:
            _write_whole(self._pictures_of(index), sample.pictures.to_bytes())
        self._written.add(index, sample)

    def skip(self, index: int, why: str) -> None:
        """Keep that a sample could not be read."""
        self._written.skip(index, why)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of `samples.jsonl`."""
        return self._own.samples

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """The lines of `skipped.jsonl`."""
        return self._own.skipped

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of `words.jsonl` that count."""
        return self._own.rows

    def pictures(self, index: int) -> SamplePictures | None:
        """What is looked at behind a sample's scores; None if it was not kept.

        Raises:
            SavedExplanationError: its file is damaged.
        """
        path = self._pictures_of(index)
        return SamplePictures.read(path) if path.is_file() else None

    @property
    def done(self) -> frozenset[int]:
        """Indices of the samples that need not be evaluated any more, whoever evaluated them."""
        return self._own.done.union(*(ledger.done for ledger in self._ledgers()))

    @property
    def finished(self) -> bool:
        """Whether every sample is done, and what several processes did is merged."""
        return self.facts is not None and len(self._own.done) == self.facts["samples"]

    # -- several processes -----------------------------------------------------------------------------------

    def write_beside(self, rank: int) -> None:
        """Let this process, one of several, keep what it does in a ledger of its own.

        Args:
            rank: its number.

        Raises:
            UsageError: the folder is not on a disk that this process shares with the first.
        """
        if not (self.path / _RUN).is_file():
            raise UsageError(
                f"output folder {self.path} was made by the first process and is not there on {platform.node()}: "
                "give a folder on a disk that all nodes share"
            )
        names = (f"{rank}-{number}" if number else f"{rank}" for number in itertools.count())
        (self.path / _RANKS).mkdir(exist_ok=True)
        self._written = Ledger(next(path for name in names if _made(path := self.path / _RANKS / name)))

    def fetch(self, index: int) -> None:
        """Copy what another process has written of a sample; nothing if that was done already."""
        entry = self._elsewhere.pop(index, None)
        if entry is not None:
            self._own.copy(entry)

    def merge(self) -> None:
        """Fetch what other processes have done, up to the first gap; remove their ledgers at the end."""
        self._look_elsewhere()
        own = self._own.done
        for index in range((self.facts or {"samples": 0})["samples"]):
            if index not in own and index not in self._elsewhere:
                return
            self.fetch(index)
        ranks, merged = self.path / _RANKS, self.path / f"{_RANKS}.merged"
        if ranks.is_dir():
            # Renamed first, so that nobody reads, or goes on writing, what is half removed.
            shutil.rmtree(merged, ignore_errors=True)
            ranks.rename(merged)
            shutil.rmtree(merged)

    def _ledgers(self) -> list[Ledger]:
        """Those of other processes."""
        ranks = self.path / _RANKS
        return [Ledger(path) for path in sorted(ranks.iterdir())] if ranks.is_dir() else []

    def _look_elsewhere(self) -> None:
        own = self._own.done
        found = {index: entry for ledger in self._ledgers() for index, entry in ledger.entries.items()}
        self._elsewhere = {index: entry for index, entry in found.items() if index not in own}

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


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and wait until it is on the disk."""
    path.parent.mkdir(exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def _made(folder: Path) -> bool:
    """Make a folder; whether it was this process that made it."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
