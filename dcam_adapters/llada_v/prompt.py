"""LLaDA-V's prompt: the chat template, and the placeholder where the picture goes (spec, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcam_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IMAGE", "IMAGE_PLACEHOLDER_ID", "STOP", "SYSTEM", "chat", "stop_sequences", "tokenise"]

IMAGE = "<image>"
"""Where the picture goes in the text of a prompt."""

IMAGE_PLACEHOLDER_ID = -200
"""Where the picture goes in the ids of a prompt."""

STOP = "<|eot_id|>"
"""Ends every message, and the answer."""

SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


def chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The whole text that the model reads, with the picture's placeholder in it.

    The tokenizer's own chat template is used where it has one. It is given a system and a user message;
    a template that knows no system message leaves it out.

    Args:
        tokenizer: the checkpoint's tokenizer.
        prompt: the user's words. A "<image>" in them is where the picture goes; without one the picture
            comes first, on a line of its own.
    """
    content = prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    if getattr(tokenizer, "chat_template", None):
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)
    turns = "".join(f"{_header(message['role'])}{message['content'].strip()}{STOP}" for message in messages)
    return f"<|startoftext|>{turns}{_header('assistant')}"


def tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, *, drop_first_token_after_image: bool = False
) -> list[int]:
    """Token ids of a prompt, with -200 where the picture goes.

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


def stop_sequences(tokenizer: PreTrainedTokenizerBase | None) -> tuple[tuple[int, ...], ...]:
    """The stop sequence of this tokenizer, or none without a tokenizer.

    Raises:
        CheckpointError: the tokenizer does not know the token that ends a message.
    """
    if tokenizer is None:
        return ()
    stop = tokenizer.get_vocab().get(STOP)
    if stop is None:
        raise CheckpointError(
            f"the tokenizer has no {STOP!r} token, which ends LLaDA-V's answers: it belongs to another model"
        )
    return ((stop,),)


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"
