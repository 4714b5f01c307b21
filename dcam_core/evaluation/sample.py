"""One sample: the model answers once, every method explains that answer, every metric scores every map."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.adapter import Adapter
from dcam_core.dataset import Sample
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.evaluation.measures import Measure
from dcam_core.evaluation.named_words import NamedWord, UnscoredWord, named_words
from dcam_core.explainer import Explainer
from dcam_core.inputs import Inputs
from dcam_core.matching import WordMatcher
from dcam_core.probing.normalise import joint_min_max
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.targets import read_answer
from dcam_core.probing.untouched import untouched
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.words import ExplainedTarget

__all__ = ["CEILING", "EvaluatedSample", "SampleEvaluator"]

CEILING = "mask-on-token-grid"
"""Stands among the methods for the object's own mask, averaged over each token: what a map can show that has one
value per token. A method whose refiners work on a finer grid may be better."""


@dataclass(frozen=True)
class EvaluatedSample:
    """What is known about a sample once it is evaluated.

    Attributes:
        key: the sample's key.
        answer: what the model said.
        unscored: words of the answer that name nothing in the picture, with the reason.
        rows: one per word and method, as they stand in `words.jsonl`; method by method, words in reading order.
        seconds: what the answer took, and behind each method's name what its maps took.
    """

    key: str
    answer: str
    unscored: tuple[UnscoredWord, ...]
    rows: tuple[dict[str, Any], ...]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SampleEvaluator:
    """Evaluates samples with some methods and metrics.

    Attributes:
        model: answers.
        explainers: label -> method.
        measures: the metrics.
        matcher: tells which word names which object.
        settings: of the denoising run.
        prompt: what is asked in place of the samples' own prompts; None: these.
        ceiling: whether `CEILING` is a further method.
    """

    model: Adapter
    explainers: Mapping[str, Explainer]
    measures: Sequence[Measure]
    matcher: WordMatcher
    settings: SamplerSettings
    prompt: str | None = None
    ceiling: bool = True

    def prepare(self, sample: Sample) -> Inputs:
        """What the model reads.

        Raises:
            PictureError: the model cannot read such a picture.
        """
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            return self.model.prepare(sample.image, sample.prompt if self.prompt is None else self.prompt)

    def evaluate(self, sample: Sample, inputs: Inputs) -> EvaluatedSample:
        """Let the model answer and score all methods.

        Args:
            sample: a picture, and what is known about it.
            inputs: from `prepare`.
        """
        began = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            trajectory = self.model.denoise(inputs, self.settings)
        seconds = {"answer": time.perf_counter() - began}
        answer = read_answer(trajectory.answer_ids, self.model.tokenizer)
        named, unscored = named_words(answer, sample.objects, self.matcher)
        rows: list[dict[str, Any]] = []
        if named:
            grid = picture_grids(inputs, None)[0]
            cells, masks = (grid.rows, grid.cols), torch.stack([word.mask for word in named])
            targets = [word.target for word in named]
            for label, explainer in self.explainers.items():
                began = time.perf_counter()
                run = explainer.explain_run(inputs, trajectory, answer, targets, pictures=[sample.image])
                seconds[label] = time.perf_counter() - began
                scores = self._score(run.maps, masks, cells)
                own = seconds[label] / len(named)
                rows += self._rows(sample, label, named, scores, trajectory, run.targets, own)
            if self.ceiling:
                seen = joint_min_max([F.adaptive_avg_pool2d(masks.float(), cells)])[0]
                rows += self._rows(sample, CEILING, named, self._score(seen, masks, cells), trajectory)
        return EvaluatedSample(sample.key, answer.text, tuple(unscored), tuple(rows), seconds)

    def _score(self, maps: Tensor, masks: Tensor, cells: tuple[int, int]) -> list[dict[str, float | None]]:
        """The scores of T maps, each as metric -> score; None where there is none.

        Args:
            maps: [T, rows, columns] in [0, 1].
            masks: [T, H, W] bool.
            cells: rows and columns of the token grid; that of the maps may be finer.
        """
        height, width = masks.shape[1:]
        half_cell = round(min(height / cells[0], width / cells[1]) / 2)
        heat = torch.stack([stretch_map(each, (width, height)) for each in maps.float()])
        columns = {
            each.label: each.score(heat, masks.to(heat.device), half_cell).tolist() for each in self.measures
        }
        return [
            {label: None if math.isnan(values[word]) else values[word] for label, values in columns.items()}
            for word in range(len(maps))
        ]

    def _rows(
        self,
        sample: Sample,
        method: str,
        named: Sequence[NamedWord],
        scores: Sequence[Mapping[str, float | None]],
        trajectory: Trajectory,
        records: Sequence[ExplainedTarget] | None = None,
        seconds: float | None = None,
    ) -> list[dict[str, Any]]:
        """What is written down about each word."""
        rows = []
        for index, word in enumerate(named):
            positions = list(word.target.positions)
            record = None if records is None else records[index]
            probability = float(trajectory.commit_probabilities[positions].prod())
            rows.append(
                {
                    "sample": sample.key,
                    "method": method,
                    "word": word.target.word,
                    "positions": positions,
                    "object": ", ".join(word.match.names),
                    "objects": list(word.match.objects),
                    "rule": word.match.rule,
                    "area": float(word.mask.double().mean()),
                    "scores": dict(scores[index]),
                    "probability": None if math.isnan(probability) else probability,
                    "replayed_probability": None if record is None else record.replayed_probability,
                    "commit_steps": trajectory.commit_steps[positions].tolist(),
                    "notes": [] if record is None else list(record.notes),
                    "seconds": seconds,
                }
            )
        return rows
