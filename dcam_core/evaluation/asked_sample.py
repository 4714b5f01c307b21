"""One sample as measures that ask the model get it: the run, its words, and what several measures have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.faithfulness import (
    AskedWords,
    DeletionInsertion,
    deletion_insertion,
    modules_from_the_top,
    randomised_parameters,
)
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
    _others: dict[Hashable, SharedRuns] = field(default_factory=dict, init=False)

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
        # Methods are asked about one after the other: what was asked about another is done with.
        self._curves[:] = [entry for entry in self._curves if entry[0] is maps]
        self._curves.append((maps, baseline, intervals, curves))
        return curves

    def maps_beside(self, words: Sequence[Target], explainer: Explainer) -> Tensor:
        """[T + W, rows, columns] in [0, 1]: maps of the T words and of W others, refined together.

        What a refiner makes of a map may depend on the maps beside it: the T words' are not those that they have
        without the others.
        """
        return self._of((*self.targets, *words)).explain(explainer)[0].maps

    # -- raw maps, of this run and of others -----------------------------------------------------------------

    def raw_maps(self, explainer: Explainer) -> Tensor:
        """[T, rows, columns] float32 on the CPU: what a method gives before it is refined."""
        return _raw(self.runs, explainer)

    def raw_maps_of(self, targets: Sequence[Target], explainer: Explainer) -> Tensor:
        """The same for other words at the same places."""
        return _raw(self._of(targets), explainer)

    def raw_maps_with(self, picture: Image, explainer: Explainer) -> Tensor:
        """The same with another picture of the same size in the picture's place."""
        key = ("picture", picture.tobytes())
        if key not in self._others:
            with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
                inputs = self.model.prepare(picture, self.prompt)
            self._changed(key, inputs=inputs, pictures=[picture])
        return _raw(self._others[key], explainer)

    def raw_maps_randomised(self, seed: int, explainer: Explainer) -> Tensor:
        """The same with the parameters of all blocks and of the head in random order.

        All methods are asked at once: to shuffle a large model takes longer than to explain by it.
        """
        runs = self._changed(("parameters", seed))
        if not runs.knows(explainer):
            with randomised_parameters(self.model.model, modules_from_the_top(self.model), seed):
                for each in (explainer, *self.runs.explainers):
                    runs.probe(each)
        return _raw(runs, explainer)

    def _of(self, targets: Sequence[Target]) -> SharedRuns:
        """The run with other words."""
        return self._changed(("words", tuple(targets)), targets=targets)

    def _changed(self, key: Hashable, **changes: Any) -> SharedRuns:
        """The run with something changed, which methods share as they share the run itself."""
        if key not in self._others:
            self._others[key] = replace(self.runs, **changes)
        return self._others[key]


def _raw(runs: SharedRuns, explainer: Explainer) -> Tensor:
    return runs.probe(explainer)[0].raw[0].cpu()


def check_baseline(name: str) -> None:
    """Refuse a baseline that nobody knows.

    Raises:
        ConfigurationError: it is none of `BASELINES`.
    """
    if name not in BASELINES:
        raise ConfigurationError(f"baseline is {name!r}: it is one of {', '.join(BASELINES)}")
