"""From maps to numbers: every column of an evaluation, for the words of one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_core.evaluation.asked_sample import AskedSample
from dcam_core.evaluation.measures import AskingMeasure, Measure
from dcam_core.explainer import Explainer
from dcam_core.results.picture_maps import stretch_map

__all__ = ["Scores", "SampleScorer"]

Scores = dict[str, float | None]
"""Column -> score of a word; None where it has none."""


@dataclass(frozen=True, eq=False)
class SampleScorer:
    """Scores the maps of one sample.

    Attributes:
        columns: what is measured.
        sample: the run and its T words.
        masks: [T, H, W] bool, what the words name; nowhere true where no mask is known.
        classes: [C, H, W] bool, all classes in the picture; C is 0 where nothing is annotated.
    """

    columns: Sequence[Measure | AskingMeasure]
    sample: AskedSample
    masks: Tensor
    classes: Tensor

    def score(self, maps: Tensor, explainer: Explainer | None = None) -> list[Scores]:
        """The scores of each word.

        Args:
            maps: [T, rows, columns] in [0, 1], the maps of a method.
            explainer: the method; None where the maps are no method's.
        """
        height, width = self.masks.shape[1:]
        cells = self.sample.cells
        half_cell = round(min(height / cells[0], width / cells[1]) / 2)
        heat = torch.stack([stretch_map(each, (width, height)) for each in maps.float()])
        masks, classes = self.masks.to(heat.device), self.classes.to(heat.device)
        known = masks.flatten(1).any(1)
        values: dict[str, list[float]] = {}
        for column in self.columns:
            if isinstance(column, AskingMeasure):
                scores = column.measure.score(self.sample, maps, explainer)
            elif len(classes):
                # Whatever else it is compared with: a word that names nothing known has no right place.
                scores = column.score(heat, masks, classes, half_cell).where(known, math.nan)
            else:
                scores = torch.full((len(maps),), math.nan)
            values[column.label] = scores.tolist()
        return [
            {label: None if math.isnan(own[word]) else own[word] for label, own in values.items()}
            for word in range(len(maps))
        ]
