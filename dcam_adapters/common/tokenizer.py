"""Tokenizers from checkpoint folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dcam_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer"]

FAST = ("tokenizer.json",)
BYTE_PAIRS = ("vocab.json", "merges.txt")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint, or None if it brings none.

    Read are tokenizer.json or, where there is none, vocab.json with merges.txt: byte pairs split as Qwen2
    splits them, which is what checkpoints with code of their own for a tokenizer (Dream) have. The class is named
    outright instead of looked up in tokenizer_config.json, which would need that code.

    Raises:
        CheckpointError: the files cannot be read.
    """
    files = next((files for files in (FAST, BYTE_PAIRS) if all((folder / f).is_file() for f in files)), None)
    if files is None:
        return None
    # Slow to import: only when there is something to read.
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    kind: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast if files == FAST else Qwen2Tokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions on a malformed file
        raise CheckpointError(
            f"{folder / files[0]} cannot be read ({' '.join(str(error).split())}): download it anew"
        ) from error
    return tokenizer
