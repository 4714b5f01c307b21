"""Packing several conversations about one picture into one sequence.

The picture is most of a sequence, and conversations about it are short. So a batch holds each picture once,
followed by several segments (a question and its answer each) that read the picture and themselves but not
each other; the picture does not read the text, as under prefix caching. In other batches every picture has one
segment, and everything reads everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.curriculum import Phase, Views, phase_at
from dcam_adapters.embedded.training.prompts import PromptIds
from dcam_adapters.embedded.training.scenes import SceneArrays

__all__ = ["PackedBatch", "PackedBatches", "Segments", "attention_mask", "segment_positions"]

SHORT_ANSWER = 2
"""Positions of the answer region of a packed question: its one word and the stop token. The whole region is
trained where a question stands alone."""

LOWEST_TIME = 0.02
EARLY_TIME = 0.6
"""Lowest time of captions that are trained early in the denoising. What is decided there, the answer keeps."""

QUESTION_TIME = 0.3
"""Questions have answers of one word: at early times it would mostly be visible, and nothing learnt."""

PADDING_WEIGHT = 0.1
"""Weight of the stop tokens that fill the region behind the first: there is nothing to learn but to repeat it."""

ASKED_WORD_WEIGHT = 1.0
"""Weight of the answer's first token at the row of the word that is asked about; see `PackedBatches`."""


class Segments(NamedTuple):
    """K conversations about each of B pictures, padded to T tokens.

    Attributes:
        ids: [B, K, T] int64, question and answer, masked tokens in place; padded at the end.
        lengths: [B, K] int64, tokens that are not padding.
        rows: [B, K, 1 + G] int64, where in the segment tokens are predicted: at the word that is asked about, then
            at the G positions of the answer region.
        targets: [B, K, 1 + G] int64, what is to be predicted there.
        weights: [B, K, 1 + G] float32, weight of each token's loss; 0 where it is not masked.
    """

    ids: Tensor
    lengths: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor


class PackedBatch(NamedTuple):
    """B pictures, and what is said about them.

    Attributes:
        pixels: [B, 3, S, S] float32.
        groups: segments of different lengths; one group of one segment where everything reads everything.
        packed: whether segments stand apart from each other, and the picture does not read them.
        views: numbers of the views in which the pictures are shown.
    """

    pixels: Tensor
    groups: tuple[Segments, ...]
    packed: bool
    views: tuple[int, ...]


class PackedBatches(IterableDataset[PackedBatch]):
    """Endless batches of masked conversations.

    A question is answered in two hops: the row of the word that is asked about finds in the picture what is like
    it, and the answer's row reads that row. Neither hop is of use without the other, so neither is learnt for a
    long time. Therefore the row of that word, too, has to predict the answer: one hop, learnt within minutes, and
    the second follows.

    Args:
        scenes: rendered scenes.
        conversations: what is said about them.
        prompts: its token ids.
        views: number of views that the family shows of a picture.
        size: pictures in a batch.
        curriculum: what batches consist of as the training goes on.
        steps: length of the training.
        seed: seed of the draws; batch number n is the same whatever came before it.
        start: number of the first batch.
    """

    def __init__(
        self,
        scenes: SceneArrays,
        conversations: Conversations,
        prompts: PromptIds,
        *,
        views: int,
        size: int,
        curriculum: tuple[Phase, ...],
        steps: int,
        seed: int,
        start: int = 0,
    ) -> None:
        self.scenes, self.conversations, self.prompts = scenes, conversations, prompts
        self.views, self.size, self.seed, self.start = views, size, seed, start
        self.curriculum, self.steps = curriculum, steps

    def __iter__(self) -> Iterator[PackedBatch]:
        number = self.start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> PackedBatch:
        """Batch `number` of the training."""
        random = np.random.default_rng([self.seed, number])
        phase = phase_at(self.curriculum, number / self.steps)
        packed = bool(random.random() < phase.packed)
        indices = random.integers(0, len(self.scenes), self.size)
        pixels, _, objects = self.scenes.batch(indices, mirrored=random.random() < 0.5)
        said = [
            self._packed(names, phase, random) if packed else self._alone(names, phase, random)
            for names in self._names(objects)
        ]
        return PackedBatch(
            pixels=pixels,
            groups=tuple(self._stacked(rows) for rows in zip(*said, strict=True)),
            packed=packed,
            views=self._views(phase.views, random),
        )

    def _views(self, shown: Views, random: np.random.Generator) -> tuple[int, ...]:
        match shown:
            case Views.FIRST:
                return (0,)
            case Views.ONE:
                return (int(random.integers(self.views)),)
            case Views.ALL:
                return tuple(range(self.views))

    def _names(self, objects: Tensor) -> Iterator[list[tuple[str, str]]]:
        """(shape, colour) words of every scene."""
        shapes, colours = self.conversations.shapes, self.conversations.colours
        for scene in objects.tolist():
            yield [(shapes[shape - 1], colours[colour - 1]) for shape, colour in scene if shape]

    def _packed(
        self, names: list[tuple[str, str]], phase: Phase, random: np.random.Generator
    ) -> list[list[_Segment]]:
        """The caption several times, masked differently; and short questions, their answers masked."""
        region = self.prompts.answer_length
        caption = self.conversations.caption(names, random)
        time, hidden = _masked(region, LOWEST_TIME, random)
        masks = [(time, hidden), (1 - time, ~hidden)]
        masks += [_masked(region, EARLY_TIME, random) for _ in range(phase.captions - len(masks))]
        captions = [self._segment(*caption, region, *mask) for mask in masks]
        whole = np.ones(SHORT_ANSWER, bool)
        asked = [self.conversations.question(names, random) for _ in range(phase.questions)]
        return [captions, [self._segment(*pair, SHORT_ANSWER, 1.0, whole) for pair in asked]]

    def _alone(
        self, names: list[tuple[str, str]], phase: Phase, random: np.random.Generator
    ) -> list[list[_Segment]]:
        """One conversation with its whole answer region."""
        asks = random.random() < phase.questions_alone
        draw = self.conversations.question if asks else self.conversations.caption
        time, hidden = _masked(self.prompts.answer_length, QUESTION_TIME if asks else LOWEST_TIME, random)
        return [[self._segment(*draw(names, random), len(hidden), time, hidden)]]

    def _segment(
        self, prompt: str, text: str, region: int, time: float, hidden: NDArray[np.bool_]
    ) -> _Segment:
        question, asked = self.prompts.question(prompt)
        answer = np.array(self.prompts.answer(text, region))
        stops = answer == self.prompts.stop
        # Every answer counts the same: "yes" as much as a caption of sixteen words.
        importance = np.where(np.cumsum(stops) > 1, PADDING_WEIGHT, 1.0) / (~stops).sum()
        # Nothing is to be found out at the asked word's row where the answer is visible.
        look_up = ASKED_WORD_WEIGHT if asked is not None and hidden[0] else 0.0
        return _Segment(
            ids=np.concatenate([question, np.where(hidden, self.prompts.mask, answer)]),
            rows=np.concatenate([[asked or 0], len(question) + np.arange(region)]),
            targets=np.concatenate([answer[:1], answer]),
            weights=np.concatenate([[look_up], importance * hidden / max(time, 0.05)]),
        )

    def _stacked(self, rows: Sequence[Sequence[_Segment]]) -> Segments:
        # One length for all: the network is compiled for few shapes.
        region = len(rows[0][0].targets) - 1
        longest = self.prompts.longest + region

        def stacked(values: list[list[Any]], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.array(values)).to(dtype)

        return Segments(
            ids=stacked(
                [[np.pad(s.ids, (0, longest - len(s.ids))) for s in row] for row in rows], torch.int64
            ),
            lengths=stacked([[len(s.ids) for s in row] for row in rows], torch.int64),
            rows=stacked([[s.rows for s in row] for row in rows], torch.int64),
            targets=stacked([[s.targets for s in row] for row in rows], torch.int64),
            weights=stacked([[s.weights for s in row] for row in rows], torch.float32),
        )


class _Segment(NamedTuple):
    """One conversation, not padded yet; see `Segments`."""

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float64]


def _masked(length: int, lowest: float, random: np.random.Generator) -> tuple[float, NDArray[np.bool_]]:
    """A time t ~ U(lowest, 1) and the positions that are masked at it, each with probability t (LLaDA)."""
    time = random.uniform(lowest, 1)
    return time, random.random(length) < time


def segment_positions(start: int, segments: int, length: int) -> Tensor:
    """[K * T] int64 rotary positions of segments: every one begins where the prompt before it ends.

    Args:
        start: position of the first token behind the picture.
        segments: K.
        length: T.
    """
    return torch.arange(start, start + length).repeat(segments)


def attention_mask(prefix: int, lengths: Tensor, length: int) -> Tensor:
    """What the rows of segments read, True where a row may read a column: the prefix, and their own segment.

    Args:
        prefix: number of tokens up to the segments.
        lengths: [B, K] tokens of each segment that are not padding.
        length: T, tokens of a segment with padding.

    Returns:
        [B, 1, K * T, prefix + K * T] bool; of one segment [B, 1, 1, prefix + T], the same for all rows.
    """
    batch, segments = lengths.shape
    there = torch.arange(length) < lengths[..., None]
    columns = torch.cat([torch.ones(batch, prefix, dtype=torch.bool), there.flatten(1)], dim=1)
    if segments == 1:
        return columns[:, None, None, :]
    owner = torch.arange(segments).repeat_interleave(length)
    own = torch.cat([torch.ones(len(owner), prefix, dtype=torch.bool), owner[:, None] == owner], dim=1)
    return (own & columns[:, None, :])[:, None]
