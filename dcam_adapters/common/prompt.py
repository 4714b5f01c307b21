"""Prompts of the LLaVA-style families: the chat template, and the placeholders where pictures go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcam_core.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CHATML",
    "IMAGE",
    "IMAGE_PLACEHOLDER_ID",
    "LLADA",
    "SYSTEM",
    "ChatFormat",
    "chat",
    "stop_sequences",
    "tokenise",
]

IMAGE = "<image>"
"""Where a picture goes in the text of a prompt."""

IMAGE_PLACEHOLDER_ID = -200
"""Where a picture goes in the ids of a prompt."""

SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class ChatFormat:
    """How a base model's chat template writes messages, for tokenizers that bring no template.

    Attributes:
        begin: before the first message.
        header: before a message; "{role}" is replaced.
        end: after a message.
    """

    begin: str
    header: str
    end: str

    def text(self, messages: Sequence[dict[str, str]]) -> str:
        """The messages, and the header of the assistant's answer."""
        turns = "".join(
            f"{self._opened(each['role'])}{each['content'].strip()}{self.end}" for each in messages
        )
        return f"{self.begin}{turns}{self._opened('assistant')}"

    def _opened(self, role: str) -> str:
        return self.header.format(role=role)


LLADA = ChatFormat("<|startoftext|>", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")
"""LLaDA-8B-Instruct's (LLaDA-V spec, section 6; LaViDa spec, section 7)."""

CHATML = ChatFormat("", "<|im_start|>{role}\n", "<|im_end|>\n")
"""Dream-v0-Instruct's (LaViDa spec, section 7)."""


def chat(
    tokenizer: PreTrainedTokenizerBase, prompt: str, form: ChatFormat = LLADA, *, pictures: int = 1
) -> str:
    """The whole text that the model reads, with the pictures' placeholders in it.

    The tokenizer's own chat template is used where it has one. It is given a system and a user message;
    a template that knows no system message leaves it out.

    Args:
        tokenizer: the checkpoint's tokenizer.
        prompt: the user's words. Every "<image>" in them is where a picture goes; without one the pictures
            come first, on a line of their own.
        form: how messages are written where the tokenizer has no template.
        pictures: number of pictures.

    Raises:
        UsageError: the prompt names another number of pictures.
    """
    named = prompt.count(IMAGE)
    if named not in (0, pictures):
        raise UsageError(
            f"the prompt has {named} places for a picture ({IMAGE}), and {pictures} pictures are given: "
            "write one for each picture, or none to have all of them come first"
        )
    content = prompt if named else f"{' '.join([IMAGE] * pictures)}\n{prompt}"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    if getattr(tokenizer, "chat_template", None):
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)
    return form.text(messages)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, *, drop_first_token_after_image: bool = False
) -> list[int]:
    """Token ids of a prompt, with -200 where a picture goes.

    The text on either side of a placeholder is tokenised by itself. The tokenizer adds no special tokens
    of its own: the template has written them all.

    Args:
        tokenizer: the checkpoint's tokenizer.
        text: the prompt, "<image>" included.
        drop_first_token_after_image: leave out the first token of every piece after a picture. Upstream's
            generation code does so because it takes that token for a BOS; the published tokenizer seems
            to prepend none, so what is lost is the line break between picture and question, which
            training kept. False feeds what was trained; True reproduces upstream's output.
    """
    pieces = [list(tokenizer(piece, add_special_tokens=False)["input_ids"]) for piece in text.split(IMAGE)]
    ids = pieces[0]
    for piece in pieces[1:]:
        ids = [*ids, IMAGE_PLACEHOLDER_ID, *piece[int(drop_first_token_after_image) :]]
    return ids


def stop_sequences(
    tokenizer: PreTrainedTokenizerBase | None, tokens: Sequence[str], *, family: str
) -> tuple[tuple[int, ...], ...]:
    """Tokens that end an answer, as stop sequences; none without a tokenizer.

    Args:
        tokenizer: the checkpoint's tokenizer.
        tokens: the tokens; the first one ends a message and must be there, others may be absent.
        family: name of the family, for the message.

    Raises:
        CheckpointError: the tokenizer does not know the token that ends a message.
    """
    if tokenizer is None:
        return ()
    vocabulary = tokenizer.get_vocab()
    if tokens[0] not in vocabulary:
        raise CheckpointError(
            f"the tokenizer has no {tokens[0]!r} token, which ends {family}'s answers: "
            "it belongs to another model"
        )
    return tuple((vocabulary[token],) for token in tokens if token in vocabulary)
