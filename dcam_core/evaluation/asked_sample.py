"""One sample as measures that ask the model get it: the run, its words, and what several measures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.faithfulness import AskedWords, DeletionInsertion, deletion_insertion
from dcam_core.probing.baseline_pictures import BASELINES
from dcam_core.probing.untouched import untouched

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.evaluation.sharing import SharedRuns
    from dcam_core.explainer import Explainer
    from dcam_core.probing.targets import Target

__all__ = ["AskedSample"]


@dataclass(frozen=True, eq=False)
class AskedSample:
    """A picture, an answer about it, and the words of it that are evaluated.

    Attributes:
        model: answers; left as it was found.
        prompt: what was asked about the picture, which is the only one.
        runs: the recorded run, or the given answer, with its T words, and what methods made of them.
        cells: rows and columns of the model's token grid over the picture.
    """

    model: Adapter
    prompt: str
    runs: SharedRuns
    cells: tuple[int, int]
    _curves: list[tuple[Tensor, str, int, DeletionInsertion]] = field(default_factory=list, init=False)

    @property
    def picture(self) -> Image:
        """The picture, RGB."""
        return self.runs.pictures[0]

    @property
    def targets(self) -> Sequence[Target]:
        """The T words."""
        return self.runs.targets

    @cached_property
    def words(self) -> AskedWords:
        """The words, ready to be asked about with changed pictures."""
        return AskedWords(self.model, self.picture, self.prompt, self.runs.trajectory, self.targets)

    def on_tokens(self, maps: Tensor) -> Tensor:
        """[T, rows, columns]: maps averaged over each token.

        A method whose maps are finer than the token grid is asked with the same cells as all others: otherwise it
        would be shown other pictures, and the scores of two methods could not be compared.
        """
        return F.adaptive_avg_pool2d(maps.float(), self.cells)

    def curves(self, maps: Tensor, baseline: str, intervals: int) -> DeletionInsertion:
        """Deletion and insertion by the tokens of these maps; computed once, however many measures read it.

        Args:
            maps: [T, rows, columns] in [0, 1].
            baseline: one of `BASELINES`.
            intervals: as in `deletion_insertion`.
        """
        for known, *asked, curves in self._curves:
            if known is maps and asked == [baseline, intervals]:
                return curves
        curves = deletion_insertion(
            self.words, self.on_tokens(maps), BASELINES[baseline](self.picture), intervals=intervals
        )
        self._curves[:] = [
            entry for entry in self._curves if entry[0] is maps
        ]  # one method after the other is asked about
        self._curves.append((maps, baseline, intervals, curves))
        return curves

    def raw_maps(self, explainer: Explainer) -> Tensor:
        """[T, rows, columns] float32 on the CPU: what a method gives before it is refined."""
        return self.runs.probe(explainer)[0].raw[0].cpu()

    def other_raw_maps(
        self, explainer: Explainer, *, targets: Sequence[Target] | None = None, picture: Image | None = None
    ) -> Tensor:
        """The same with something changed, computed anew: the model may be another one now, too.

        Args:
            explainer: the method.
            targets: other words at the same places.
            picture: what stands in the picture's place, of its size.
        """
        inputs = self.runs.inputs
        if picture is not None:
            with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
                inputs = self.model.prepare(picture, self.prompt)
        shown = self.picture if picture is None else picture
        chosen = self.targets if targets is None else targets
        (raw,) = explainer.probe_run(inputs, self.runs.trajectory, chosen, pictures=[shown]).raw
        return raw.cpu()


def check_baseline(name: str) -> None:
    """Refuse a baseline that nobody knows.

    Raises:
        ConfigurationError: it is none of `BASELINES`.
    """
    if name not in BASELINES:
        raise ConfigurationError(f"baseline is {name!r}: it is one of {', '.join(BASELINES)}")
