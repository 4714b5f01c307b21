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
from dcam_core.dataset import LeftOut, Sample
from dcam_core.denoising.given import given_trajectory
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import UsageError
from dcam_core.evaluation.against import class_masks
from dcam_core.evaluation.asked_sample import AskedSample
from dcam_core.evaluation.measures import AskingMeasure, Measure
from dcam_core.evaluation.named_words import EvaluatedWord, UnscoredWord, named_words, with_grounded
from dcam_core.evaluation.pictures import SamplePictures
from dcam_core.evaluation.reliance import reliance_lines
from dcam_core.evaluation.scoring import SampleScorer, Scores
from dcam_core.evaluation.sharing import SharedRuns
from dcam_core.explainer import Explainer
from dcam_core.inputs import Inputs
from dcam_core.matching import WordMatcher
from dcam_core.probing.normalise import joint_min_max
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.targets import Answer, all_words, read_answer
from dcam_core.probing.untouched import untouched
from dcam_core.results.reliance import VisualReliance
from dcam_core.results.words import ExplainedTarget

__all__ = ["CEILING", "AnsweredSample", "EvaluatedSample", "SampleEvaluator"]

CEILING = "mask-on-token-grid"
"""Stands among the methods for the object's own mask, averaged over each token: what a map can show that has one
value per token. A method whose refiners work on a finer grid may be better."""


@dataclass(frozen=True)
class EvaluatedSample:
    """What is known about a sample once it is evaluated.

    Attributes:
        key: the sample's key.
        answer: what the model said.
        unscored: words of the answer that are not evaluated, with the reason.
        rows: one per word and method, as they stand in `words.jsonl`; method by method, words in reading order.
        seconds: what the answer took, and behind each method's name what its maps take by themselves.
        reliance: see `reliance_lines`; None where it was not measured.
        pictures: what is looked at behind the scores; None where none are kept, or no word was explained.
        left_out: what the data say of the picture and could not be used.
    """

    key: str
    answer: str
    unscored: tuple[UnscoredWord, ...]
    rows: tuple[dict[str, Any], ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    reliance: Sequence[Mapping[str, Any]] | None = None
    pictures: SamplePictures | None = None
    left_out: Sequence[LeftOut] = ()


@dataclass(frozen=True, eq=False)
class AnsweredSample:
    """A sample with an answer.

    Attributes:
        sample: a picture, and what is known about it.
        inputs: picture and prompt as the model reads them.
        trajectory: the recorded run, or the given answer.
        seconds: what reading and answering took.
    """

    sample: Sample
    inputs: Inputs
    trajectory: Trajectory
    seconds: float


@dataclass(frozen=True, eq=False)
class SampleEvaluator:
    """Evaluates samples with some methods and metrics.

    Attributes:
        model: answers.
        explainers: label -> method.
        measures: the columns.
        matcher: tells which word names which object.
        settings: of the denoising run.
        prompt: what is asked in place of the samples' own prompts; None: these.
        ceiling: whether `CEILING` is a further method.
        captions: whether the samples' captions are explained, in place of what the model answers.
        every_grounded_word: whether words that no mask is known of are evaluated too, if they depend on the picture.
        reliance: whether the visual reliance of every word is written down.
        keep_pictures: whether samples are given with what is looked at behind their scores.
    """

    model: Adapter
    explainers: Mapping[str, Explainer]
    measures: Sequence[Measure | AskingMeasure]
    matcher: WordMatcher
    settings: SamplerSettings
    prompt: str | None = None
    ceiling: bool = True
    captions: bool = False
    every_grounded_word: bool = False
    reliance: bool = False
    keep_pictures: bool = True

    def answer(self, sample: Sample) -> AnsweredSample:
        """Let the model read the picture and answer; or take what the dataset says as the answer.

        Raises:
            PictureError: the model cannot read such a picture.
            UsageError: the sample has no caption, or the model cannot read it.
        """
        began = time.perf_counter()
        prompt = sample.prompt if self.prompt is None else self.prompt
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            inputs = self.model.prepare(sample.image, prompt)
            if not self.captions:
                trajectory = self.model.denoise(inputs, self.settings)
            elif sample.caption is None:
                raise UsageError(
                    f"sample {sample.key} has no caption to explain: let the model answer instead"
                )
            else:
                trajectory = given_trajectory(self.model, sample.caption, self.settings)
        return AnsweredSample(sample, inputs, trajectory, time.perf_counter() - began)

    def evaluate(self, answered: AnsweredSample) -> EvaluatedSample:
        """Score all methods on an answer.

        Args:
            answered: from `answer`.
        """
        sample, inputs, trajectory = answered.sample, answered.inputs, answered.trajectory
        seconds = {"answer": answered.seconds}
        answer = read_answer(trajectory.answer_ids, self.model.tokenizer)
        named, unscored = named_words(answer, sample.objects, self.matcher, sample.left_out)
        reliance = self._reliance(sample, inputs, trajectory, answer)
        words = [EvaluatedWord(word.target, word) for word in named]
        left = unscored
        if self.every_grounded_word and reliance is not None:
            words, left = with_grounded(words, unscored, answer, reliance)
        targets = [word.target for word in words]
        runs = SharedRuns(inputs, trajectory, answer, targets, [sample.image], list(self.explainers.values()))
        rows: list[dict[str, Any]] = []
        maps: dict[str, Tensor] = {}
        if words:
            scorer = self._scorer(sample, runs, words)
            for label, explainer in self.explainers.items():
                run, seconds[label] = runs.explain(explainer)
                maps[label] = run.maps
                scores = scorer.score(run.maps, explainer)
                own = seconds[label] / len(words)
                rows += _rows(sample, label, words, scores, trajectory, run.targets, own)
            if self.ceiling:
                seen = F.adaptive_avg_pool2d(scorer.masks.float(), scorer.sample.cells)
                maps[CEILING] = joint_min_max([seen])[0]
                rows += _rows(sample, CEILING, words, self._ceiling(scorer, words, maps[CEILING]), trajectory)
        return EvaluatedSample(
            sample.key,
            answer.text,
            tuple(left),
            tuple(rows),
            seconds,
            None if reliance is None else reliance_lines(reliance, unscored, named),
            self._pictures(sample, answer, words, maps) if self.keep_pictures and maps else None,
            sample.left_out,
        )

    def _ceiling(self, scorer: SampleScorer, words: Sequence[EvaluatedWord], maps: Tensor) -> list[Scores]:
        """The scores of the words' own masks; of a word without a mask there is no such map."""
        nothing: Scores = dict.fromkeys(measure.label for measure in self.measures)
        if all(word.mask is None for word in words):
            return [nothing] * len(words)
        return [
            nothing if word.mask is None else own for own, word in zip(scorer.score(maps), words, strict=True)
        ]

    def _reliance(
        self, sample: Sample, inputs: Inputs, trajectory: Trajectory, answer: Answer
    ) -> VisualReliance | None:
        """How much every word depends on the picture, where that is asked for."""
        words = all_words(answer)
        if not (self.reliance or self.every_grounded_word) or not words:
            return None
        # Reliance is no method's: any explainer of the model measures the same.
        explainer = next(iter(self.explainers.values()))
        return explainer.visual_reliance([sample.image], inputs, trajectory, words)

    def _scorer(self, sample: Sample, runs: SharedRuns, words: Sequence[EvaluatedWord]) -> SampleScorer:
        grid = picture_grids(runs.inputs, None)[0]
        width, height = sample.image.size
        unknown = torch.zeros(height, width, dtype=torch.bool)
        return SampleScorer(
            self.measures,
            AskedSample(self.model, runs.inputs.prompt, runs, (grid.rows, grid.cols)),
            torch.stack([unknown if word.mask is None else word.mask for word in words]),
            class_masks(sample.objects) if sample.objects else unknown[None][:0],
        )

    def _pictures(
        self, sample: Sample, answer: Answer, words: Sequence[EvaluatedWord], maps: Mapping[str, Tensor]
    ) -> SamplePictures:
        """What is looked at behind the scores."""
        spans = {word.positions: (word.start, word.stop) for word in answer.words}
        positions = [word.target.positions for word in words]
        return SamplePictures.of(
            sample.image, positions, [spans[own] for own in positions], [word.mask for word in words], maps
        )


def _rows(
    sample: Sample,
    method: str,
    words: Sequence[EvaluatedWord],
    scores: Sequence[Scores],
    trajectory: Trajectory,
    records: Sequence[ExplainedTarget] | None = None,
    seconds: float | None = None,
) -> list[dict[str, Any]]:
    """What is written down about each word."""
    rows = []
    for index, word in enumerate(words):
        positions = list(word.target.positions)
        record = None if records is None else records[index]
        probability = float(trajectory.commit_probabilities[positions].prod())
        match = None if word.named is None else word.named.match
        rows.append(
            {
                "sample": sample.key,
                "method": method,
                "word": word.target.word,
                "positions": positions,
                "object": None if match is None else ", ".join(match.names),
                "objects": [] if match is None else list(match.objects),
                "rule": None if match is None else match.rule,
                "area": None if word.mask is None else float(word.mask.double().mean()),
                "scores": dict(scores[index]),
                "probability": None if math.isnan(probability) else probability,
                "replayed_probability": None if record is None else record.replayed_probability,
                "commit_steps": trajectory.commit_steps[positions].tolist(),
                "notes": [] if record is None else list(record.notes),
                "seconds": seconds,
            }
        )
    return rows
