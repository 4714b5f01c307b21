"""Stop sequences: where the answer ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = ["first_stop"]


def first_stop(ids: Tensor, sequences: Iterable[Sequence[int]]) -> int | None:
    """Position of the earliest stop sequence.

    Args:
        ids: [G] int64, the answer region; undecided positions hold the mask id.
        sequences: the stop sequences, token ids each.

    Returns:
        The position where the earliest complete occurrence begins, or None.
    """
    found = []
    for sequence in sequences:
        wanted = ids.new_tensor(list(sequence))
        if 0 < len(wanted) <= len(ids):
            starts = (ids.unfold(0, len(wanted), 1) == wanted).all(-1).nonzero()
            if len(starts):
                found.append(int(starts[0]))
    return min(found, default=None)
