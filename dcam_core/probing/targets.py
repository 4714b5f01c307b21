"""Words of the answer, and which of them to explain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dcam_core.errors import TargetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Answer",
    "AnswerWord",
    "Target",
    "all_words",
    "decode",
    "phrase",
    "read_answer",
    "select_targets",
    "split_words",
]

# A word: one character of a script written without spaces, or a run of letters and digits that may hold
# apostrophes and hyphens; anything else that is not a space is punctuation.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+(?:['\u2019\-](?:(?![{_CJK}])\w)+)*|[^\w\s]")


@dataclass(frozen=True)
class AnswerWord:
    """One word of the answer.

    Attributes:
        text: the word as written.
        start: first character of it in the answer text.
        stop: one past its last character.
        positions: the answer positions of its tokens.
    """

    text: str
    start: int
    stop: int
    positions: tuple[int, ...]

    @property
    def is_punctuation(self) -> bool:
        """Whether it holds no letter and no digit."""
        return not any(character.isalnum() for character in self.text)


@dataclass(frozen=True)
class Answer:
    """The answer as text, as tokens and as words.

    Attributes:
        text: decoded answer, special tokens left out.
        token_ids: ids of the answer region up to the stop sequence.
        tokens: each token as text.
        words: the words in reading order, punctuation included.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    words: tuple[AnswerWord, ...]


@dataclass(frozen=True)
class Target:
    """Something to explain: a word, a phrase or a position of the answer.

    Attributes:
        word: the text, as it stands in the answer.
        positions: answer positions of its tokens.
        token_ids: the token at each position.
        tokens: each token as text.
    """

    word: str
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]


def split_words(text: str) -> list[str]:
    """The words of a text, punctuation included, as an answer's are found."""
    return _WORD.findall(text)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Token ids as text."""
    text = tokenizer.decode(list(ids))
    # transformers types the result for batches too; one sequence is one string.
    return text if isinstance(text, str) else "".join(text)


def read_answer(ids: Tensor, tokenizer: PreTrainedTokenizerBase | None) -> Answer:
    """Decode an answer and group its sub-tokens into words.

    Args:
        ids: [n] int64, the answer's ids, stop sequence excluded.
        tokenizer: the model's tokenizer; None: every token is a word, written as its id.

    Returns:
        The answer. Words take the characters that the tokenizer's own offsets give to each token; where
        the text does not encode to the same ids again, those of decoding the ids one by one.
    """
    token_ids = tuple(int(token) for token in ids)
    if tokenizer is None:
        return _numbered(token_ids)
    text, spans = _spans(token_ids, tokenizer)
    words = []
    for match in _WORD.finditer(text):
        positions = tuple(
            position
            for position, (start, stop) in enumerate(spans)
            if start < match.end() and match.start() < stop
        )
        if positions:
            words.append(AnswerWord(match.group(), match.start(), match.end(), positions))
    tokens = tuple(decode(tokenizer, [token]) for token in token_ids)
    return Answer(text, token_ids, tokens, tuple(words))


def _numbered(token_ids: tuple[int, ...]) -> Answer:
    """The answer of a model without tokenizer: every id is a word."""
    words, cursor = [], 0
    for position, token in enumerate(token_ids):
        text = str(token)
        words.append(AnswerWord(text, cursor, cursor + len(text), (position,)))
        cursor += len(text) + 1
    tokens = tuple(map(str, token_ids))
    return Answer(" ".join(tokens), token_ids, tokens, tuple(words))


def _spans(
    token_ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """The answer text, and the characters of it that belong to each token."""
    special = set(tokenizer.all_special_ids)
    kept = [position for position, token in enumerate(token_ids) if token not in special]
    text = decode(tokenizer, [token_ids[position] for position in kept])
    spans = [(0, 0)] * len(token_ids)
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if encoded["input_ids"] == [token_ids[position] for position in kept]:
            for position, offsets in zip(kept, encoded["offset_mapping"], strict=True):
                spans[position] = tuple(offsets)
            return text, spans
    # A model may write a token sequence that its tokenizer would not: the text grows with every token.
    before = 0
    for index, position in enumerate(kept):
        after = len(decode(tokenizer, [token_ids[p] for p in kept[: index + 1]]).rstrip("\ufffd"))
        spans[position] = (before, max(before, min(after, len(text))))
        before = spans[position][1]
    return text, spans


def all_words(answer: Answer) -> tuple[Target, ...]:
    """Every word of an answer but punctuation, in reading order."""
    return tuple(phrase(answer, [word]) for word in answer.words if not word.is_punctuation)


def select_targets(answer: Answer, wanted: Iterable[str | int] | None) -> tuple[Target, ...]:
    """Turn what the user asks for into positions of the answer.

    Args:
        answer: the answer as read by `read_answer`.
        wanted: any of: a word ("circle": every occurrence), its n-th occurrence ("circle#2"), a phrase
            ("red circle"), an answer position (an int, or "@5"). Letter case does not matter. None: all
            words of the answer.

    Returns:
        The targets, in the order asked for; None gives them in reading order.

    Raises:
        TargetError: something asked for is not in the answer; the answer's words are listed.
    """
    if wanted is None:
        chosen = all_words(answer)
        if not chosen:
            raise TargetError(
                f"the answer {answer.text!r} has no words to explain: name a position ('@0'), "
                "or give the sampler more steps"
            )
        return chosen
    if isinstance(wanted, (str, int)):
        wanted = [wanted]
    return tuple(target for item in wanted for target in _find(answer, item))


def _find(answer: Answer, item: str | int) -> list[Target]:
    """All targets that one wish names."""
    if isinstance(item, int) or re.fullmatch(r"@\d+", item):
        return [_at(answer, int(str(item).lstrip("@")))]
    name, occurrence = item, None
    if match := re.fullmatch(r"(.*\S)#(\d+)", item):
        name, occurrence = match.group(1), int(match.group(2))
    pattern = [word.casefold() for word in split_words(name)]
    texts = [word.text.casefold() for word in answer.words]
    starts = (
        [i for i in range(len(texts) - len(pattern) + 1) if texts[i : i + len(pattern)] == pattern]
        if pattern
        else []
    )
    found = [phrase(answer, answer.words[i : i + len(pattern)]) for i in starts]
    there = ", ".join(dict.fromkeys(word.text for word in answer.words)) or "no words"
    if not found:
        raise TargetError(f"target {name!r} is not in the answer {answer.text!r}: its words are {there}")
    if occurrence is None:
        return found
    if not 1 <= occurrence <= len(found):
        raise TargetError(
            f"target {item!r}: {name!r} occurs {len(found)} time(s) in the answer {answer.text!r}; "
            f"occurrences are counted from #1"
        )
    return [found[occurrence - 1]]


def _at(answer: Answer, position: int) -> Target:
    """The single token at an answer position."""
    if not 0 <= position < len(answer.token_ids):
        raise TargetError(
            f"target position {position} is outside the answer: it has {len(answer.token_ids)} tokens, "
            "numbered from 0"
        )
    text = answer.tokens[position].strip() or f"@{position}"
    return Target(text, (position,), (answer.token_ids[position],), (answer.tokens[position],))


def phrase(answer: Answer, words: Sequence[AnswerWord]) -> Target:
    """One target out of neighbouring words, at least one."""
    positions = tuple(dict.fromkeys(position for word in words for position in word.positions))
    return Target(
        word=answer.text[words[0].start : words[-1].stop],
        positions=positions,
        token_ids=tuple(answer.token_ids[position] for position in positions),
        tokens=tuple(answer.tokens[position] for position in positions),
    )
