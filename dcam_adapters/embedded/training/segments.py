"""Packing several conversations about one picture into one sequence.

The picture is most of a sequence, and conversations about it are short. So a batch holds each picture once,
followed by several segments (a question and its answer each) that read the picture and themselves but not
each other. In such batches the picture does not read the text. One segment alone needs no such care: then
everything reads everything, which is how LLaDA-V attends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.scenes import SceneArrays
from dcam_adapters.llada_v.prompt import IMAGE, chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PackedBatch", "PackedBatches", "PromptIds", "attention_mask", "position_ids"]

PACKED = 4
"""Segments per picture in a packed batch: the caption twice, with complementary masks, and two questions."""

QUESTION_SHARE = 0.4
"""Share of questions among segments that stand alone."""

SHARE_PACKED = 0.75
"""Share of packed batches until the last phase."""

LAST_PHASE = 0.75
"""Share of the training after which only one batch in four is packed: full attention is how the model is used."""

BOTH_VIEWS_FROM = 0.6
"""Share of the training after which the picture is shown in both views. Before, each batch shows one of them, at
that view's own positions: half the work, and neither view is favoured."""

VIEWS = ("base", "grid")

LONGEST_QUESTION = 10
"""Most tokens between picture and answer. All segments are padded to one length, so that the network is compiled
for few shapes."""

LOWEST_TIME = 0.02
QUESTION_TIME = 0.3
"""Questions have answers of one word: at early times it would mostly be visible, and nothing learnt."""


class PackedBatch(NamedTuple):
    """B pictures with K segments each; a segment is T tokens, its answer's G tokens among them.

    Attributes:
        pixels: [B, 3, S, S] float32.
        ids: [B, K, T] int64, text after the picture and answer, masked tokens in place; padded at the end.
        lengths: [B, K] int64, tokens of a segment that are not padding.
        answers: [B, K] int64, where in the segment the answer begins.
        targets: [B, K, G] int64, the whole answer.
        weights: [B, K, G] float32, weight of each token's loss; 0 where it is not masked.
        views: the views in which the pictures are shown.
    """

    pixels: Tensor
    ids: Tensor
    lengths: Tensor
    answers: Tensor
    targets: Tensor
    weights: Tensor
    views: tuple[str, ...]


class PromptIds:
    """Token ids of prompts and answers.

    Args:
        tokenizer: the model's tokenizer.
        answer_length: G, positions of the answer region.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answer_length: int) -> None:
        self.tokenizer, self.answer_length = tokenizer, answer_length
        self._known: dict[str, list[int]] = {}
        self.before = self._ids(chat(tokenizer, "?").split(IMAGE)[0])
        self.stop = self._ids("<|eot_id|>")[0]
        self.mask = self._ids("<|mdm_mask|>")[0]

    def _ids(self, text: str) -> list[int]:
        # The same few texts come again and again.
        if text not in self._known:
            self._known[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]

    def after(self, prompt: str) -> list[int]:
        """Ids between the picture and the answer, at most `LONGEST_QUESTION`."""
        ids = self._ids(chat(self.tokenizer, prompt).split(IMAGE)[1])
        if len(ids) > LONGEST_QUESTION:
            raise ValueError(
                f"prompt {prompt!r} has {len(ids)} tokens, at most {LONGEST_QUESTION} are trained"
            )
        return ids

    def answer(self, text: str) -> list[int]:
        """Ids of the answer, the stop token, and stop tokens up to the end of the region."""
        ids = self._ids(text)
        if len(ids) >= self.answer_length:
            raise ValueError(f"answer {text!r} has {len(ids)} tokens, the region only {self.answer_length}")
        return ids + [self.stop] * (self.answer_length - len(ids))


class PackedBatches(IterableDataset[PackedBatch]):
    """Endless batches of masked conversations.

    Args:
        scenes: rendered scenes.
        conversations: what is said about them.
        prompts: its token ids.
        size: pictures in a batch.
        steps: length of the training, by which the share of packed batches is set.
        seed: seed of the draws; batch number n is the same whatever came before it.
        start: number of the first batch.
        padding_weight: weight of the stop tokens that fill the region behind the first.
    """

    def __init__(
        self,
        scenes: SceneArrays,
        conversations: Conversations,
        prompts: PromptIds,
        *,
        size: int,
        steps: int,
        seed: int,
        start: int = 0,
        padding_weight: float = 0.1,
    ) -> None:
        self.scenes, self.conversations, self.prompts = scenes, conversations, prompts
        self.size, self.steps, self.seed, self.start = size, steps, seed, start
        self.padding_weight = padding_weight

    def __iter__(self) -> Iterator[PackedBatch]:
        number = self.start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> PackedBatch:
        """Batch `number` of the training."""
        random = np.random.default_rng([self.seed, number])
        packed = SHARE_PACKED if number < LAST_PHASE * self.steps else 1 - SHARE_PACKED
        segments = PACKED if random.random() < packed else 1
        indices = random.integers(0, len(self.scenes), self.size)
        pixels, _, objects = self.scenes.batch(indices, mirrored=random.random() < 0.5)
        rows = [self._segments(names, segments, random) for names in self._names(objects)]
        longest = LONGEST_QUESTION + self.prompts.answer_length

        def stacked(part: int, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.stack([[segment[part] for segment in row] for row in rows])).to(dtype)

        padded = [[np.pad(ids, (0, longest - len(ids))) for ids, *_ in row] for row in rows]
        return PackedBatch(
            pixels=pixels,
            ids=torch.from_numpy(np.stack(padded)),
            lengths=torch.tensor([[len(ids) for ids, *_ in row] for row in rows]),
            answers=stacked(1, torch.int64),
            targets=stacked(2, torch.int64),
            weights=stacked(3, torch.float32),
            views=VIEWS if number >= BOTH_VIEWS_FROM * self.steps else (VIEWS[random.integers(len(VIEWS))],),
        )

    def _names(self, objects: Tensor) -> Iterator[list[tuple[str, str]]]:
        """(shape, colour) words of every scene."""
        shapes, colours = self.conversations.shapes, self.conversations.colours
        for scene in objects.tolist():
            yield [(shapes[shape - 1], colours[colour - 1]) for shape, colour in scene if shape]

    def _segments(
        self, names: list[tuple[str, str]], count: int, random: np.random.Generator
    ) -> list[tuple[Any, ...]]:
        """(ids, start of the answer, answer, weights) of every segment of one picture."""
        length = self.prompts.answer_length
        if count == 1 and random.random() < QUESTION_SHARE:
            said = [self.conversations.question(names, random)]
            masks = [_masked(length, QUESTION_TIME, random)]
        elif count == 1:
            said = [self.conversations.caption(names, random)]
            masks = [_masked(length, LOWEST_TIME, random)]
        else:
            questions = [self.conversations.question(names, random) for _ in range(count - 2)]
            said = [self.conversations.caption(names, random) for _ in range(2)] + questions
            time, hidden = _masked(length, LOWEST_TIME, random)
            masks = [(time, hidden), (1 - time, ~hidden)]
            masks += [_masked(length, QUESTION_TIME, random) for _ in questions]
        return [self._segment(*pair, *mask) for pair, mask in zip(said, masks, strict=True)]

    def _segment(self, prompt: str, text: str, time: float, hidden: Any) -> tuple[Any, ...]:
        question, answer = self.prompts.after(prompt), np.array(self.prompts.answer(text))
        # Behind the first stop token there is nothing to learn but to repeat it.
        behind = np.cumsum(answer == self.prompts.stop) > 1
        importance = np.where(behind, self.padding_weight, 1.0)
        # Every answer counts the same: "yes" as much as a caption of sixteen words.
        importance *= len(answer) / importance.sum()
        ids = np.concatenate([question, np.where(hidden, self.prompts.mask, answer)])
        return ids, len(question), answer, importance * hidden / max(time, 0.05)


def _masked(length: int, lowest: float, random: np.random.Generator) -> tuple[float, Any]:
    """A time t ~ U(lowest, 1) and the positions that are masked at it, each with probability t (LLaDA)."""
    time = random.uniform(lowest, 1)
    return time, random.random(length) < time


def position_ids(prefix: Tensor, start: int, segments: int, length: int) -> Tensor:
    """Rotary positions of a packed sequence.

    Args:
        prefix: positions of the text before the picture and of the picture's tokens.
        start: position of the first token behind the picture; every segment begins there.
        segments: K.
        length: T.

    Returns:
        [len(prefix) + K * T] int64.
    """
    return torch.cat([prefix, torch.arange(start, start + length).repeat(segments)])


def attention_mask(prefix: int, lengths: Tensor, length: int) -> Tensor:
    """Who reads whom, True where a row may read a column.

    Args:
        prefix: number of tokens up to the end of the picture.
        lengths: [B, K] tokens of each segment that are not padding.
        length: T, tokens of a segment with padding.

    Returns:
        [B, 1, n, n] bool for n = prefix + K * T; one segment alone gives [B, 1, 1, n], the same for all rows.
    """
    batch, segments = lengths.shape
    there = torch.arange(length) < lengths[..., None]
    columns = torch.cat([torch.ones(batch, prefix, dtype=torch.bool), there.flatten(1)], dim=1)
    if segments == 1:
        return columns[:, None, None, :]
    owner = torch.cat([torch.full((prefix,), -1), torch.arange(segments).repeat_interleave(length)])
    # The picture's rows read the picture; a segment's rows read the picture and the segment.
    allowed = (owner[None, :] == -1) | (owner[None, :] == owner[:, None])
    return (allowed & columns[:, None, :])[:, None]
