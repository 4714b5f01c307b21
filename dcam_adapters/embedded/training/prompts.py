"""Token ids of prompts and answers, in the frame that a family puts around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Frame", "PromptIds"]

LONGEST_QUESTION = 6
"""Most tokens of a question's own words."""


class Frame(NamedTuple):
    """What stands around picture and question in every prompt of a family, as text.

    Attributes:
        before: before the picture.
        between: between picture and question.
        after: between question and answer.
    """

    before: str
    between: str
    after: str


class PromptIds:
    """Token ids of prompts and answers.

    Args:
        tokenizer: the model's tokenizer.
        frame: what stands around them.
        answer_length: G, positions of the answer region.
        asked: words that a question can be about.

    Attributes:
        before: ids before the picture.
        between: ids between picture and question.
        longest: most tokens from the question to the answer.
        stop: id that ends an answer.
        mask: id of a masked token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, frame: Frame, answer_length: int, asked: Sequence[str]
    ) -> None:
        self.tokenizer, self.answer_length = tokenizer, answer_length
        self._known: dict[str, list[int]] = {}
        self.before, self.between, self._after = (self._ids(text) for text in frame)
        self.longest = LONGEST_QUESTION + len(self._after)
        self._asked = {self._ids(word)[0] for word in asked}
        self.stop = self._ids("<|eot_id|>")[0]
        self.mask = self._ids("<|mdm_mask|>")[0]

    def _ids(self, text: str) -> list[int]:
        # The same few texts come again and again.
        if text not in self._known:
            self._known[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]

    def question(self, prompt: str) -> tuple[list[int], int | None]:
        """Ids from the question to the answer, and which of them is the word that is asked about, if any."""
        ids = self._ids(prompt)
        if len(ids) > LONGEST_QUESTION:
            raise ValueError(
                f"prompt {prompt!r} has {len(ids)} tokens, at most {LONGEST_QUESTION} are trained"
            )
        asked = next((place for place, token in enumerate(ids) if token in self._asked), None)
        return ids + self._after, asked

    def answer(self, text: str, region: int) -> list[int]:
        """Ids of the answer, the stop token, and stop tokens up to the end of a region."""
        ids = self._ids(text)
        if len(ids) >= region:
            raise ValueError(f"answer {text!r} has {len(ids)} tokens, the region only {region}")
        return ids + [self.stop] * (region - len(ids))
