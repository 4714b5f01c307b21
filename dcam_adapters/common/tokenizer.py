"""Tokenizers from checkpoint folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dcam_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer"]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The fast tokenizer of a checkpoint, or None if there is no tokenizer.json.

    The class is named outright instead of looked up by model type, which would need code from the hub.

    Raises:
        CheckpointError: tokenizer.json cannot be read.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast  # slow to import: only when there is something to read

    try:
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            str(folder), local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises bare exceptions on a malformed file
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} cannot be read ({' '.join(str(error).split())}): download it anew"
        ) from error
    return tokenizer
