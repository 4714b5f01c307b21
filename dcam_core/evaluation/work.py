"""The samples of an evaluation as work: one after the other in one process, or shared by several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcam_core.dataset import ExplanationDataset
from dcam_core.distributed import SharedWork
from dcam_core.errors import ConfigurationError, SavedExplanationError, UsageError
from dcam_core.evaluation.folder import RunFolder
from dcam_core.evaluation.model_source import ModelSource
from dcam_core.evaluation.sample import SampleEvaluator
from dcam_core.progress import Progress

__all__ = ["EvaluationWork", "SharedEvaluation"]

_READ_AGAIN = 50
"""Of the samples that are done, about so many are compared with the data when an evaluation is continued."""


@dataclass(frozen=True, eq=False)
class EvaluationWork:
    """What is to be evaluated, once the model is loaded.

    Attributes:
        evaluator: evaluates a sample.
        samples: the dataset.
        count: number of its samples that are asked for: the first ones.
        facts: what the request comes to, for `RunFolder.settle`.
    """

    evaluator: SampleEvaluator
    samples: ExplanationDataset
    count: int
    facts: Mapping[str, Any]

    def take_up(self, folder: RunFolder) -> None:
        """Make ready for writing, and see that what is done was done on these data.

        Some of the samples that are done are read again: to read all of them may take long.

        Raises:
            UsageError: the folder was begun in another way, or on other data.
        """
        folder.settle(self.facts)
        recorded = folder.samples
        for line in recorded[:: max(1, len(recorded) // _READ_AGAIN)] + recorded[-1:]:
            try:
                key = self.samples[line["index"]].key
            except (UsageError, OSError):  # what cannot be read now says nothing of what was
                continue
            if key != line["sample"]:
                raise UsageError(
                    f"sample {line['index']} of the dataset was {line['sample']!r} when {folder.path} was begun, "
                    f"and is {key!r} now: the data have changed; give another folder"
                )

    def do(self, index: int, folder: RunFolder) -> None:
        """Evaluate a sample, and keep it."""
        try:
            answered = self.evaluator.answer(self.samples[index])
        except ConfigurationError:  # would be said of every sample
            raise
        except (UsageError, OSError) as error:  # what is wrong with this sample, and no other
            folder.skip(index, " ".join(str(error).split()))
        else:
            folder.add(index, self.evaluator.evaluate(answered))

    def do_all(self, folder: RunFolder, progress: Progress | None) -> None:
        """Evaluate the samples that are not done, in their order."""
        self.take_up(folder)
        done = folder.done
        for index in range(self.count):
            if index in done:
                folder.fetch(index)
            else:
                self.do(index, folder)
            if progress is not None:
                progress("evaluating", index + 1, self.count)
        folder.merge()


class SharedEvaluation(SharedWork):
    """An evaluation that several processes share.

    Args:
        source: the model, which every process loads for itself on its own device.
        begin: says what is to be evaluated with it.
        folder: where the results go; all processes see the same.
    """

    stage = "evaluating"

    def __init__(
        self, source: ModelSource, begin: Callable[[ModelSource], EvaluationWork], folder: RunFolder
    ) -> None:
        self._source = source
        self._begin = begin
        self._folder = folder
        self._work: EvaluationWork | None = None
        self._left = 0

    @property
    def work(self) -> EvaluationWork:
        """What is to be evaluated."""
        if self._work is None:
            raise RuntimeError("the work was not prepared")
        return self._work

    def prepare(self, device: torch.device) -> None:
        """Load the model on the device of this process."""
        self._work = self._begin(self._source.on(device))

    def remaining(self) -> Sequence[int]:
        """The samples that no earlier call has evaluated."""
        self.work.take_up(self._folder)
        self._folder.merge()
        done = self._folder.done
        remaining = [index for index in range(self.work.count) if index not in done]
        self._left = len(remaining)
        return remaining

    def join(self, rank: int) -> None:
        """Begin a ledger of this process."""
        self._folder.write_beside(rank)

    def do(self, index: int) -> None:
        """Evaluate a sample."""
        self.work.do(index, self._folder)

    def finish(self, done: int) -> None:
        """Merge the ledgers.

        Raises:
            SavedExplanationError: the folder does not hold all that was evaluated.
        """
        self._folder.merge()
        if done != self._left or not self._folder.finished:
            raise SavedExplanationError(
                f"{self._folder.path} misses samples after {done} of {self._left} were evaluated: what some process "
                "wrote cannot be read here; give a folder on a disk that all nodes share"
            )
