"""Obj-IoU, Func-IoU and F1-IoU: the words of an answer, kind by kind, as Token Activation Map measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_plugins.metrics._scores import harmonic_mean
from dcam_plugins.metrics.localisation import found_pixels, otsu_threshold, overlap

__all__ = ["FunctionWord", "Noun", "WordScores", "WordScoresOfPicture", "word_scores"]


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun of the answer.

    Attributes:
        maps: [k, h, w] in [0, 1], floating, on the token grid: one map for each of its tokens.
        mask: [H, W] bool, the object that it names; None: it names no annotated object, and only has a say in the
            threshold of function words.
        label: what it names; neighbouring nouns of the same label count once, with the better IoU. None: the word
            counts by itself.
    """

    maps: Tensor
    mask: Tensor | None = None
    label: str | int | None = None


@dataclass(frozen=True, eq=False)
class FunctionWord:
    """A function word of the answer, e.g. an article: nothing in the picture is called so.

    Attributes:
        maps: [k, h, w] in [0, 1], floating, on the token grid: one map for each of its tokens.
    """

    maps: Tensor


class WordScoresOfPicture(NamedTuple):
    """Scores of the words of one answer.

    Attributes:
        obj_iou: [n] float64, IoU of every noun that names an object, after merging.
        precision: [n] float64, of the same token's map.
        recall: [n] float64, of the same token's map.
        func_iou: [m] float64, of every function word; empty if the answer has no noun to take the threshold from.
        undefined: number of nouns left out because their mask is empty or covers the whole picture.
    """

    obj_iou: Tensor
    precision: Tensor
    recall: Tensor
    func_iou: Tensor
    undefined: int


def word_scores(
    words: Sequence[Noun | FunctionWord], size: tuple[int, int] | None = None
) -> WordScoresOfPicture:
    """Score the words of one answer.

    A noun's map is read in 256 grey levels, stretched over the picture, and binarised at Otsu's threshold; of the
    word's tokens the best counts. The threshold of function words is the mean, over all nouns, of the largest Otsu
    threshold of the word's tokens. The Func-IoU of a function word is the share of its map that stays below, averaged
    over its tokens: high is good, since function words should not light up.

    Args:
        words: nouns and function words in reading order. Other words are left out; words next to each other here
            count as neighbours, so the two nouns of "a cat and a cat" are none.
        size: (height, width) of the picture, where no mask says it; without either, maps are read on their own grid.

    Returns:
        The scores. Unlike the released code, a noun without object is never merged with anything.

    Raises:
        UsageError: a word's maps are not [k, h, w] in [0, 1] with k at least 1, or a mask is not [H, W] bool,
            or masks differ in size.
    """
    objects: list[tuple[str | int | None, Tensor]] = []
    thresholds: list[Tensor] = []
    undefined, before = 0, None
    size = _picture_size(words, size)
    for word in words:
        if isinstance(word, FunctionWord):
            before = None
            continue
        grey = _grey_levels(word.maps)
        maps = grey if size is None else _stretched(grey, size)
        thresholds.append(otsu_threshold(maps / 255).amax())
        if word.mask is None:
            before = None
            continue
        if not word.mask.any() or word.mask.all():
            undefined += 1
            before = None
            continue
        score = _best_token(maps / 255, word.mask)
        if word.label is not None and word.label == before:
            objects[-1] = max(objects[-1], (word.label, score), key=lambda each: float(each[1][0]))
        else:
            objects.append((word.label, score))
        before = word.label
    scores = [score for _, score in objects]
    stacked = torch.stack(scores).cpu() if scores else torch.zeros(0, 3, dtype=torch.float64)
    quiet = torch.zeros(0, dtype=torch.float64)
    if thresholds:
        threshold = torch.stack(thresholds).double().mean()
        shares = [
            (_grey_levels(word.maps) < threshold).double().mean()
            for word in words
            if isinstance(word, FunctionWord)
        ]
        quiet = torch.stack(shares).cpu() if shares else quiet
    iou, precision, recall = stacked.unbind(-1)
    return WordScoresOfPicture(iou, precision, recall, quiet, undefined)


class WordScores(torchmetrics.Metric):
    """Obj-IoU, Func-IoU and F1-IoU over the words of many answers.

    Every word counts the same, whichever answer it stands in. F1-IoU is the harmonic mean of the two means.

    Attributes:
        totals: [4] float64, sums of obj_iou, precision, recall and func_iou since the last reset.
        objects: [] int64, number of nouns in the first three sums.
        function_words: [] int64, number of function words in the last one.
        undefined: [] int64, number of nouns whose mask is empty or the whole picture; in no mean.

    Source: Li et al., "Token Activation Map to Visually Explain Multimodal LLMs", ICCV 2025.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    totals: Tensor
    objects: Tensor
    function_words: Tensor
    undefined: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("totals", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("objects", "function_words", "undefined"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, words: Sequence[Noun | FunctionWord]) -> None:
        """Add the words of one answer; see `word_scores`.

        Raises:
            UsageError: maps or masks are not as `Noun` and `FunctionWord` say.
        """
        scores = word_scores(words)
        self.totals += torch.stack([part.sum() for part in scores[:4]]).to(self.totals.device)
        self.objects += len(scores.obj_iou)
        self.function_words += len(scores.func_iou)
        self.undefined += scores.undefined

    def compute(self) -> dict[str, Tensor]:
        """`obj_iou`, `precision`, `recall`, `func_iou`, `f1_iou`: [] float64 in [0, 1]; NaN without such words."""
        iou, precision, recall = (self.totals[:3] / self.objects).unbind()
        func_iou = self.totals[3] / self.function_words
        f1_iou = harmonic_mean(torch.stack([iou, func_iou])) + 0 * (iou + func_iou)  # NaN if one of them is
        return {
            "obj_iou": iou,
            "precision": precision,
            "recall": recall,
            "func_iou": func_iou,
            "f1_iou": f1_iou,
        }


def _grey_levels(maps: Tensor) -> Tensor:
    """[k, h, w] float64, whole numbers 0 to 255."""
    return (255 * maps.double()).round()


def _stretched(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """[k, H, W] float64, whole numbers 0 to 255."""
    return F.interpolate(grey[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].round()


def _best_token(maps: Tensor, mask: Tensor) -> Tensor:
    """[3] float64: IoU, precision and recall of the map with the best IoU."""
    scores = torch.stack(overlap(found_pixels(maps), mask.expand_as(maps)), dim=-1)
    return scores[scores[:, 0].argmax()]


def _picture_size(
    words: Sequence[Noun | FunctionWord], size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """(height, width) of the masks; without any, what was given."""
    for number, word in enumerate(words):
        _check(number, word)
        if isinstance(word, Noun) and word.mask is not None:
            height, width = word.mask.shape
            if size is not None and size != (height, width):
                raise UsageError(
                    f"words[{number}].mask is {[height, width]} beside others of {list(size)}: words of one answer "
                    "are compared on one picture"
                )
            size = (height, width)
    return size


def _check(number: int, word: Noun | FunctionWord) -> None:
    maps = word.maps
    if maps.ndim != 3 or maps.numel() == 0 or not maps.is_floating_point():
        raise UsageError(
            f"words[{number}].maps is {list(maps.shape)} {maps.dtype}: give [k, h, w] floating values, a map for "
            "each token of the word"
        )
    if not (maps.amin() >= 0 and maps.amax() <= 1):
        raise UsageError(
            f"words[{number}].maps holds values from {maps.amin().item():g} to {maps.amax().item():g}: give values "
            "in [0, 1]"
        )
    if (
        isinstance(word, Noun)
        and word.mask is not None
        and (word.mask.ndim != 2 or word.mask.dtype != torch.bool)
    ):
        raise UsageError(
            f"words[{number}].mask is {list(word.mask.shape)} {word.mask.dtype}: give [H, W] bool"
        )
