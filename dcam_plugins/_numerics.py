"""The few numerical tools that several methods share; all of them treat dimension 0 as the batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "centred", "least_squares_scale", "percentile"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is half precision, unchanged otherwise: sums need the room."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def centred(features: Tensor) -> Tensor:
    """Features without each channel's mean over the image tokens.

    What a channel says about every image token alike says nothing about where: a large common part only
    adds a constant to sums over channels, and drowns the differences in products.

    Args:
        features: [B, N, C].

    Returns:
        [B, N, C], zero mean along N.
    """
    return features - features.mean(dim=1, keepdim=True)


def percentile(ordered: Tensor, count: Tensor, percent: float | Tensor) -> Tensor:
    """Percentile of the `count` largest of each row, by linear interpolation between order statistics.

    Equal to `torch.quantile(row[-count:], percent / 100)`, for rows that each have their own count and
    their own percentage. The rank is formed as (count - 1) * percent / 100 in this order, so that whole
    ranks come out whole and the percentile is then exactly one of the values.

    Args:
        ordered: [B, N] ascending along N.
        count: [B] integer, 0 to N.
        percent: 0 to 100, one number or [B].

    Returns:
        [B], same dtype as `ordered`; where `count` is 0 the largest value of the row.
    """
    length = ordered.shape[1]
    rank = ((count - 1).clamp_min(0).to(ordered.dtype) * percent / 100).clamp_max(length - 1)
    below = rank.floor()
    first = (length - count).clamp_max(length - 1)
    indices = torch.stack([first + below.long(), first + rank.ceil().long()], dim=1)
    low, high = ordered.gather(1, indices).unbind(dim=1)
    return torch.lerp(low, high, rank - below)


def least_squares_scale(values: Tensor, pattern: Tensor) -> Tensor:
    """The number a that minimises the sum of (values - a pattern)^2: <values, pattern> / <pattern, pattern>.

    Args:
        values: [B, ...].
        pattern: [B, ...], same shape.

    Returns:
        [B]; 0 where the pattern is zero everywhere, and any number would do.
    """
    values, pattern = values.flatten(1), pattern.flatten(1)
    overlap, energy = (values * pattern).sum(dim=1), pattern.square().sum(dim=1)
    return torch.where(energy > 0, overlap / energy.where(energy > 0, torch.ones_like(energy)), 0)
