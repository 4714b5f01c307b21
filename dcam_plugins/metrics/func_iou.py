"""Func-IoU: the maps of function words should stay cold where those of nouns light up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.model_measure import ModelMeasure
from dcam_core.probing.targets import phrase
from dcam_core.word_classes import WordClass, word_class
from dcam_plugins.metrics.words import FunctionWord, Noun, word_scores

if TYPE_CHECKING:
    from dcam_core.evaluation import AskedSample
    from dcam_core.explainer import Explainer

__all__ = ["FuncIoU"]


class FuncIoU(ModelMeasure):
    """Of the answer that a word stands in: the mean Func-IoU of its function words, in [0, 1]; see `word_scores`.

    The function words are explained together with the evaluated words, whose maps give the threshold. All evaluated
    words of an answer have this one score, and an answer without a function word has none.

    Published code takes the threshold from all nouns, as a tagger finds them. Here it is from the words that are
    evaluated: they name something that is annotated, or depend on the picture where such words are evaluated too.

    Source: Li et al., "Token Activation Map to Visually Explain Multimodal LLMs", ICCV 2025.
    """

    def score(self, sample: AskedSample, maps: Tensor, explainer: Explainer | None) -> Tensor:
        """Score; see `ModelMeasure.score`."""
        nothing = torch.full((len(maps),), math.nan, dtype=torch.float64)
        if explainer is None:
            return nothing
        answer = sample.runs.answer
        cold = [word for word in answer.words if word_class(word.text) is WordClass.FUNCTION]
        evaluated = {target.positions for target in sample.targets}
        further = [phrase(answer, [word]) for word in cold if word.positions not in evaluated]
        found = sample.maps_beside(further, explainer).cpu()
        width, height = sample.picture.size
        places = {word.positions for word in cold}
        words = [
            FunctionWord(own[None]) if target.positions in places else Noun(own[None])
            for own, target in zip(found, (*sample.targets, *further), strict=True)
        ]
        return nothing.fill_(float(word_scores(words, (height, width)).func_iou.mean()))
