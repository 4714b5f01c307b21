"""How alike two maps are: what sanity checks and stability compare."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dcam_core.errors import UsageError

__all__ = ["agreement", "spearman", "structural_similarity"]


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Rank correlation of the cells of two maps; equals share their mean rank.

    Args:
        maps: [T, h, w], any floating dtype.
        others: [T, h, w].

    Returns:
        [T] float64 in [-1, 1]; NaN where one of the two is the same everywhere, and has no ranks.

    Raises:
        UsageError: shapes differ.
    """
    _check(maps, others)
    ranks = [_ranks(each) for each in (maps, others)]
    centred = [each - each.mean(1, keepdim=True) for each in ranks]
    scale = (centred[0].square().sum(1) * centred[1].square().sum(1)).sqrt()
    return ((centred[0] * centred[1]).sum(1) / scale).clamp(-1, 1)


def structural_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """SSIM of two maps in [0, 1], with a window of 7 x 7 cells, or as large as fits.

    Args:
        maps: [T, h, w] in [0, 1], any floating dtype.
        others: [T, h, w] in [0, 1].

    Returns:
        [T] float64 in [-1, 1]; 1 for equal maps.

    Raises:
        UsageError: shapes differ.
    """
    _check(maps, others)
    if not len(maps):
        return torch.zeros(0, dtype=torch.float64, device=maps.device)
    side = min(7, *maps.shape[1:])
    side -= 1 - side % 2
    found = structural_similarity_index_measure(
        maps[:, None].double(),
        others[:, None].double(),
        gaussian_kernel=False,
        kernel_size=side,
        reduction="none",
        data_range=1.0,
    )
    if not isinstance(found, Tensor):  # it can give the parts of the index too, which were not asked for
        found = found[0]
    return found.reshape(-1)


def agreement(repeats: Sequence[Tensor]) -> Tensor:
    """Mean rank correlation over all pairs of repeats: stability under seeds or noise.

    Args:
        repeats: at least two, each [T, h, w].

    Returns:
        [T] float64 in [-1, 1]; NaN where a map is the same everywhere.

    Raises:
        UsageError: there are fewer than two, or shapes differ.
    """
    if len(repeats) < 2:
        raise UsageError(f"there are {len(repeats)} repeats: agreement takes at least two")
    return torch.stack([spearman(*pair) for pair in combinations(repeats, 2)]).mean(0)


def _ranks(maps: Tensor) -> Tensor:
    """[T, h * w] float64, ranks from 0, equals with their mean rank."""
    flat = maps.flatten(1)
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat.contiguous())
    up_to = torch.searchsorted(ordered, flat.contiguous(), right=True)
    return (below + up_to - 1).double() / 2


def _check(maps: Tensor, others: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != others.shape:
        raise UsageError(
            f"maps are {list(maps.shape)} and {list(others.shape)}: give two times [words, rows, columns]"
        )
