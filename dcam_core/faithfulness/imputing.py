"""Noisy linear imputation: what is removed is filled in from its surroundings, so that no edge gives it away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.errors import UsageError

__all__ = ["impute"]


def impute(
    pixels: Tensor,
    removed: Tensor,
    *,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> Tensor:
    """Fill removed pixels so that each is the weighted mean of its 8 neighbours, all at once; then add noise.

    Neighbours at an edge weigh 1/6, those at a corner 1/12, and what lies outside the picture nothing. The linear
    system is symmetric and positive definite; it is solved by conjugate gradients on the grid itself, from coarse to
    fine, and no matrix is made.

    Args:
        pixels: [C, H, W] floating, in [0, 1].
        removed: [H, W] bool; not all of the picture.
        noise: standard deviation of what is added to the removed pixels.
        seed: of the noise; no global random state is touched.
        tolerance: the solver stops when no removed pixel is further than about this from its neighbours' weighted
            mean. By default the result is exact to about one grey level of 256, which is less than the noise.

    Returns:
        [C, H, W] float64; pixels that were not removed are unchanged, the others may leave [0, 1] by the noise.

    Raises:
        UsageError: shapes do not fit, or everything is removed: there is nothing to fill from.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022.
    """
    if pixels.ndim != 3 or removed.shape != pixels.shape[1:] or removed.dtype != torch.bool:
        raise UsageError(
            f"pixels are {list(pixels.shape)} and removed is {list(removed.shape)} {removed.dtype}: give "
            "[C, H, W] and [H, W] bool"
        )
    pixels = pixels.double()
    if not removed.any():
        return pixels.clone()
    if removed.all():
        raise UsageError("every pixel is removed: there is nothing to fill the picture from")
    filled = _solved(pixels, removed, tolerance)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(pixels.shape, dtype=torch.float64, generator=generator).to(pixels.device)
    return torch.where(removed, filled + noise * drawn, pixels)


def _solved(pixels: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """[C, H, W], the known pixels and, in the hole, the solution of weight * x - sum of weighted neighbours = 0."""
    hole = removed.double()
    weight = _weighted_sum(torch.ones_like(pixels[:1]))
    solution = torch.where(removed, _first_guess(pixels, removed, tolerance), pixels)
    # Conjugate gradients with the diagonal as preconditioner; every channel has its own step.
    residual = hole * (_weighted_sum(solution) - weight * solution)
    preconditioned = residual / weight
    direction = preconditioned
    product = (residual * preconditioned).sum((1, 2))
    for _ in range(int(removed.sum())):
        if residual.abs().amax() <= tolerance:
            break
        image = hole * (weight * direction - _weighted_sum(direction))
        curvature = (direction * image).sum((1, 2))
        step = (product / curvature.where(curvature > 0, 1))[:, None, None]
        solution = solution + step * direction
        residual = residual - step * image
        preconditioned = residual / weight
        before, product = product, (residual * preconditioned).sum((1, 2))
        direction = preconditioned + (product / before.where(before > 0, 1))[:, None, None] * direction
    return solution


def _first_guess(pixels: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """[C, H, W], the solution at half the size: what is far away is found there in half as many sweeps."""
    _, height, width = pixels.shape
    known = (~removed).double()[None]
    if min(height, width) < 4:
        return (pixels * known).sum((1, 2), keepdim=True).expand_as(pixels) / known.sum()
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(pixels * known, 2, ceil_mode=True) / share.where(share > 0, 1)
    coarse = _solved(mean, share[0] == 0, tolerance) if (share == 0).any() else mean
    return F.interpolate(coarse[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def _weighted_sum(values: Tensor) -> Tensor:
    """[C, H, W], of every pixel the weighted sum of its neighbours inside the picture."""
    # 1/12, 1/6, 1/12 / 1/6, 0, 1/6 / 1/12, 1/6, 1/12 is 1, 2, 1 down times 1, 2, 1 across, less the middle.
    padded = F.pad(values, (1, 1, 1, 1))
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (across - 4 * values) / 12
