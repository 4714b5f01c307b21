"""What is shown of a sample at one moment of training: a map per word, and what can be measured of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from dcam_core.dataset import Sample
from dcam_core.denoising.given import given_trajectory
from dcam_core.errors import ConfigurationError, TargetError
from dcam_core.evaluation.against import class_masks
from dcam_core.evaluation.measures import Measure, columns
from dcam_core.evaluation.named_words import named_words
from dcam_core.explainer import Explainer
from dcam_core.faithfulness import AskedWords, blurred, deletion_insertion
from dcam_core.matching import NameMatcher
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.targets import Target, all_words, read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_core.results.picture_maps import stretch_map

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.targets import Answer

__all__ = ["SampleShower", "ShownSample", "ShownWord", "mean_scores"]

RELIANCE, DELETION, INSERTION, PROBABILITY = "visual-reliance", "deletion-auc", "insertion-auc", "probability"


@dataclass(frozen=True, eq=False)
class ShownWord:
    """A word with its map.

    Attributes:
        label: the word in lower case; from its second occurrence on with a number, as in "circle_2".
        map: [h, w] float32 in [0, 1] on the CPU, the refined map.
        scores: what was measured, by name; only finite numbers.
    """

    label: str
    map: Tensor
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ShownSample:
    """A sample at one moment.

    Attributes:
        key: the sample's key.
        picture: its picture, RGB.
        answer: the answer that was explained.
        words: the words that were explained.
        missing: what was to be explained, and is not in the answer; of the names of objects only if none of them is.
    """

    key: str
    picture: Image
    answer: str
    words: tuple[ShownWord, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SampleShower:
    """Explains samples and measures the maps.

    Attributes:
        explainer: the method on the model that is trained.
        measures: metrics that compare maps with masks, for words that name an object of the sample.
        words: which words are explained, as `Explainer.explain` takes them; those that an answer lacks are left out.
            None: the words that name an object, or all words of a sample without objects.
        captions: whether a sample's caption is explained, where there is one, and not what the model says. A caption
            has the same words whenever it is explained.
        reliance: whether the words' visual reliance is measured.
        deletion_intervals: intervals of the deletion and insertion curves; 0: they are not measured.
    """

    explainer: Explainer
    measures: Sequence[Measure] = ()
    words: Sequence[str | int] | None = None
    captions: bool = True
    reliance: bool = True
    deletion_intervals: int = 0
    matcher: NameMatcher = field(default_factory=NameMatcher)

    @classmethod
    def of(
        cls, adapter: Adapter, explained_by: Mapping[str, Any], metrics: Sequence[str] | None, **how: Any
    ) -> Self:
        """Make one for a model.

        Args:
            adapter: around the model.
            explained_by: further arguments of `Explainer`.
            metrics: metrics that compare maps with masks, as `dcam_core.evaluation.measures.columns` takes them.
            how: the other attributes.

        Raises:
            UnknownNameError: there is no such method or metric.
            ConfigurationError: a setting is wrong, or a metric is a question to the model.
        """
        explainer = Explainer(adapter, **explained_by)
        found = columns(explainer.manager.registries.metrics, metrics)
        if asking := [measure.label for measure in found if not isinstance(measure, Measure)]:
            raise ConfigurationError(
                f"metrics {', '.join(asking)} compare no map with a mask: leave them out; `reliance` and "
                "`deletion_intervals` say what the model itself is asked while it is trained"
            )
        return cls(explainer, [measure for measure in found if isinstance(measure, Measure)], **how)

    def show(self, sample: Sample) -> ShownSample:
        """Explain a sample.

        Raises:
            DcamError: as the engine raises it.
        """
        inputs, trajectory = self._answered(sample)
        answer = read_answer(trajectory.answer_ids, self.explainer.model.tokenizer)
        masks = {word.target: word.mask for word in named_words(answer, sample.objects, self.matcher)[0]}
        targets, missing = self._targets(answer, sample, masks)
        if not targets:
            return ShownSample(sample.key, sample.image, answer.text, (), missing)
        run = self.explainer.explain_run(inputs, trajectory, answer, targets, pictures=[sample.image])
        measured = self._asked_of_the_model(sample, inputs, trajectory, targets, run.maps)
        measured[PROBABILITY] = [
            math.nan if record.replayed_probability is None else record.replayed_probability
            for record in run.targets
        ]
        against_masks = self._against_masks(sample, inputs, targets, masks, run.maps)
        words = []
        for index, label in enumerate(_labels(targets)):
            scores = {name: values[index] for name, values in measured.items()} | against_masks.get(index, {})
            known = {name: value for name, value in scores.items() if math.isfinite(value)}
            words.append(ShownWord(label, run.maps[index], known))
        return ShownSample(sample.key, sample.image, answer.text, tuple(words), missing)

    def _answered(self, sample: Sample) -> tuple[Inputs, Trajectory]:
        model = self.explainer.model
        settings = model.default_sampler.merged(self.explainer.method.sampler)
        with torch.inference_mode(False), torch.no_grad(), untouched(model.model):
            inputs = model.prepare(sample.image, sample.prompt)
            if self.captions and sample.caption:
                return inputs, given_trajectory(model, sample.caption, settings)
            return inputs, model.denoise(inputs, settings)

    def _targets(
        self, answer: Answer, sample: Sample, masks: Iterable[Target]
    ) -> tuple[tuple[Target, ...], tuple[str, ...]]:
        """What is explained, and what would be if the answer had it."""
        if self.words is None:
            targets = tuple(masks) if sample.objects else all_words(answer)
            return targets, () if targets else tuple(item.words[0] for item in sample.objects)
        found: dict[Target, None] = {}
        missing = []
        for word in self.words:
            try:
                found |= dict.fromkeys(select_targets(answer, [word]))
            except TargetError:  # the answer of a model that is still learning may not hold it yet
                missing.append(str(word))
        return tuple(found), tuple(missing)

    def _asked_of_the_model(
        self,
        sample: Sample,
        inputs: Inputs,
        trajectory: Trajectory,
        targets: Sequence[Target],
        maps: Tensor,
    ) -> dict[str, list[float]]:
        """What the model itself is asked: name -> a number per target."""
        measured: dict[str, list[float]] = {}
        if self.reliance:
            reliance = self.explainer.visual_reliance([sample.image], inputs, trajectory, targets)
            found = [reliance.of(target.positions) for target in targets]
            measured[RELIANCE] = [math.nan if item is None else item.nats for item in found]
        if self.deletion_intervals:
            asked = AskedWords(self.explainer.model, sample.image, sample.prompt, trajectory, targets)
            curves = deletion_insertion(asked, maps, blurred(sample.image), intervals=self.deletion_intervals)
            measured[DELETION] = curves.deletion_auc.tolist()
            measured[INSERTION] = curves.insertion_auc.tolist()
        return measured

    def _against_masks(
        self,
        sample: Sample,
        inputs: Inputs,
        targets: Sequence[Target],
        masks: Mapping[Target, Tensor],
        maps: Tensor,
    ) -> dict[int, dict[str, float]]:
        """Scores of the targets that name an object: index -> metric -> score."""
        order = [index for index, target in enumerate(targets) if target in masks]
        if not order or not self.measures:
            return {}
        grid, (width, height) = picture_grids(inputs, None)[0], sample.image.size
        half_cell = round(min(height / grid.rows, width / grid.cols) / 2)
        heat = torch.stack([stretch_map(maps[index], (width, height)) for index in order])
        objects = torch.stack([masks[targets[index]] for index in order])
        scores = {
            measure.label: measure.score(heat, objects, class_masks(sample.objects), half_cell).tolist()
            for measure in self.measures
        }
        return {
            index: {label: values[row] for label, values in scores.items()} for row, index in enumerate(order)
        }


def mean_scores(shown: Iterable[ShownSample]) -> dict[str, float]:
    """The mean of every score over all words of all samples that have it."""
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for sample in shown:
        for word in sample.words:
            total.update(word.scores)
            count.update(word.scores.keys())
    return {name: total[name] / count[name] for name in total}


def _labels(targets: Sequence[Target]) -> list[str]:
    seen: Counter[str] = Counter()
    labels = []
    for target in targets:
        word = target.word.casefold()
        seen[word] += 1
        labels.append(word if seen[word] == 1 else f"{word}_{seen[word]}")
    return labels
