"""MMaDA's prompt: the chat template, and the sequence of the understanding task (spec, section 5).

    <|mmu|> <|soi|> N image ids <|eoi|> text

The picture always comes first. What upstream calls its thinking mode is a sentence in front of the question,
so it needs no switch: write it into the prompt.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_adapters.common.prompt import IMAGE, ChatFormat
from dcam_adapters.mmada.config import SpecialIds
from dcam_adapters.mmada.layout import IMAGE_START
from dcam_core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SINGLE_NEWLINE", "STOPS", "chat", "tokenise", "whole_prompt"]

logger = logging.getLogger("dcam.mmada")

SINGLE_NEWLINE = ChatFormat("<|startoftext|>", "<|start_header_id|>{role}<|end_header_id|>\n", "<|eot_id|>")
"""The template that upstream's demonstration sets in place of the tokenizer's own."""

STOPS = ("<|eot_id|>", "<|endoftext|>")
"""End of turn and end of text. Upstream never stops: it always fills the whole answer, and leaves special tokens
out when it decodes. Here the answer ends at the first of them, because what follows is filling."""


def chat(tokenizer: PreTrainedTokenizerBase, prompt: str, *, single_newline: bool = False) -> str:
    """The text that the model reads behind the picture.

    Args:
        tokenizer: the checkpoint's tokenizer.
        prompt: the user's words.
        single_newline: overrule the tokenizer's own chat template with `SINGLE_NEWLINE`, one line break after
            every header. Tokenizers without a template always get it.

    Raises:
        UsageError: the prompt says where the picture goes.
    """
    if IMAGE in prompt:
        raise UsageError(
            f"the prompt contains {IMAGE!r}: MMaDA always reads the picture before the text; leave it out"
        )
    messages = [{"role": "user", "content": prompt}]
    if getattr(tokenizer, "chat_template", None) and not single_newline:
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)
    return SINGLE_NEWLINE.text(messages)


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """[n] int64 ids of the text; the tokenizer adds no special tokens, since the template has written all."""
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)


def whole_prompt(ids: Tensor, codes: Tensor, special: SpecialIds | None, offset: int | None) -> Tensor:
    """The prompt with image ids: made of the text's ids and the picture's codes, or given whole and checked.

    Args:
        ids: [n] int64, the text's ids, or those of the whole prompt. Where a few image ids are not the picture's,
            as rounding in another precision makes them, they are read as given, and a warning is logged.
        codes: [N] int64, the picture's codes.
        special: the tokens around the picture; None: unknown, then only whole prompts can be read.
        offset: id of code 0; None: unknown, then only whole prompts can be read.

    Returns:
        [L] int64.

    Raises:
        UsageError: the ids are no prompt, or those of another picture; or they are text alone, and `special` or
            `offset` is unknown.
    """
    if not _is_whole(ids, len(codes), special):
        if special is None or offset is None:
            raise UsageError(
                "a prompt cannot be made of text alone, because nothing tells the ids of image codes: add the "
                "tokenizer, or name image_token_offset in config.json"
            )
        before, after = ids.new_tensor([special.mmu, special.soi]), ids.new_tensor([special.eoi])
        return torch.cat([before, codes + offset, after, ids])
    given = ids[IMAGE_START : IMAGE_START + len(codes)] - codes
    # Where nothing tells the offset, the prompt itself does: ids of this picture differ by it from its codes.
    agreed = int((given == (given.mode().values if offset is None else offset)).sum())
    if 2 * agreed < len(codes):
        raise UsageError(
            f"only {agreed} of the prompt's {len(codes)} image ids are those of this picture (image codes begin at "
            f"id {'unknown' if offset is None else offset}): the ids are of another picture or another way of "
            "cutting it; give the text's ids alone, and the picture's are put in front"
        )
    if agreed < len(codes):
        logger.warning(
            "%d of the prompt's %d image ids are not those that the picture has here (rounding in another "
            "precision flips a few); the given ones are read",
            len(codes) - agreed,
            len(codes),
        )
    return ids


def _is_whole(ids: Tensor, tokens: int, special: SpecialIds | None) -> bool:
    """Whether ids are the whole prompt rather than its text alone.

    Raises:
        UsageError: they are neither; without `special`, they are too short for a whole prompt.
    """
    end = IMAGE_START + tokens
    if special is None:
        if len(ids) > end:
            return True
        raise UsageError(
            f"{len(ids)} ids cannot be a whole prompt with {tokens} image ids from position {IMAGE_START} on, and "
            "the ids of <|mmu|>, <|soi|> and <|eoi|> are unknown, so none can be made of text alone: name them as "
            "special_token_ids in config.json"
        )
    if special.mmu not in ids:
        return False
    frame = [int(ids[place]) for place in (0, 1, end) if place < len(ids)]
    if frame != [special.mmu, special.soi, special.eoi]:
        raise UsageError(
            f"the ids contain <|mmu|> ({special.mmu}) but are no understanding prompt: expected are <|mmu|>, "
            f"<|soi|> ({special.soi}), {tokens} image ids, <|eoi|> ({special.eoi}) and text, found {frame} at "
            f"positions 0, 1 and {end}; give such a prompt, or the text's ids alone"
        )
    return True
