"""An answer that was not denoised but given: a caption of the user's or of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dcam_core.denoising.trajectory import GIVEN, NEVER_COMMITTED, Trajectory
from dcam_core.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings

__all__ = ["given_trajectory"]


def given_trajectory(adapter: Adapter, text: str, settings: SamplerSettings) -> Trajectory:
    """A text in the answer region as the model would have left it: behind its stop sequence nothing is decided.

    Args:
        adapter: the model.
        text: the answer.
        settings: as for generation; the answer region grows, in whole blocks, where the text does not fit into it.
            Nothing is suppressed: a text may say what the sampler may not.

    Returns:
        A record without steps. All positions of the text are `GIVEN`.

    Raises:
        CheckpointError: the model has no tokenizer.
        UsageError: the text is empty, or holds a word that the tokenizer does not know, or a special token.
    """
    if adapter.tokenizer is None:
        raise CheckpointError(
            f"{adapter.name} has no tokenizer, so it cannot read an answer that is given as text"
        )
    if not text.strip():
        raise UsageError("the answer that was given is empty: give at least one word")
    ids: list[int] = adapter.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    _refuse_special(adapter.tokenizer, text, ids)
    stop = settings.stop_sequences[0] if settings.stop_sequences else ()
    block = settings.block_length or 1
    needed = math.ceil((len(ids) + len(stop)) / block) * block
    # The number of steps belongs to the length that it was chosen for.
    longer: dict[str, Any] = (
        {"answer_length": needed, "steps": None} if needed > settings.answer_length else {}
    )
    settings = replace(settings, **longer, suppressed_ids=(), draft_ids=())

    length, written = settings.answer_length, len(ids) + len(stop)
    final = torch.zeros(length, dtype=torch.int64)
    final[:written] = torch.tensor([*ids, *stop])
    commit_steps = torch.full((length,), NEVER_COMMITTED)
    commit_steps[:written] = GIVEN
    return Trajectory(
        states=adapter.hidden(final, range(written, length))[None],
        commit_steps=commit_steps,
        commit_logits=torch.full((length,), math.nan),
        commit_probabilities=torch.full((length,), math.nan),
        answer_length=len(ids),
        settings=settings,
    )


def _refuse_special(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> None:
    """Refuse what the model could not have read in training as a word."""
    special = [token for token in ids if token in tokenizer.all_special_ids]
    if not special:
        return
    if special[0] != tokenizer.unk_token_id:
        raise UsageError(
            f"the answer {text!r} holds the special token {tokenizer.convert_ids_to_tokens(special[0])!r}: leave it "
            "out, the end of the answer is set behind it"
        )
    unknown = [
        word
        for word in text.split()
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]
    raise UsageError(
        f"the answer {text!r} holds words that this model's tokenizer does not know: "
        f"{', '.join(map(repr, unknown)) or 'some'}; say it in words that the model can write"
    )
