"""Noisy linear imputation: what is removed is filled in from its surroundings, so that no edge gives it away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.errors import UsageError

__all__ = ["impute"]

_DAMPING = 0.9
"""Below 1, so that what goes up and down from pixel to pixel fades in pictures of a single row too."""

_MOST_STEPS = 200
"""By default it takes about six, twenty where hardly a pixel is left, and eighty to the last digit."""


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
    system is symmetric and positive definite; it is solved by conjugate gradients with one cycle of multigrid as
    preconditioner, so that a large hole takes no more steps than a small one, and no matrix is made.

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


class _Level(NamedTuple):
    """The system on one grid: weight * x - sum of weighted neighbours = right side in the hole, x = 0 elsewhere.

    Attributes:
        hole: [1, H, W] float64, 1 where pixels are unknown and 0 where they are not.
        weight: [1, H, W] float64, sum of the weights of a pixel's neighbours inside the picture.
    """

    hole: Tensor
    weight: Tensor

    def residual(self, values: Tensor, right: Tensor) -> Tensor:
        """[C, H, W]: what is missing to the right side."""
        return self.hole * (right - self.weight * values + _weighted_sum(values))

    def sweep(self, values: Tensor, right: Tensor) -> Tensor:
        """[C, H, W]: each unknown pixel moved to what its neighbours say, nearly (damped Jacobi)."""
        said = self.hole * (right + _weighted_sum(values)) / self.weight
        return values.lerp(said, _DAMPING)


def _solved(pixels: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """[C, H, W], the known pixels and, in the hole [H, W], the solution of the system."""
    levels = list(_levels(removed[None]))
    finest = levels[0]
    known = 1 - finest.hole
    mean = (known * pixels).sum((-2, -1), keepdim=True) / known.sum((-2, -1), keepdim=True)
    solution = torch.where(removed, mean, pixels)
    nothing = torch.zeros_like(solution)
    residual = finest.residual(solution, nothing)
    direction = preconditioned = _cycle(levels, residual)
    product = _dot(residual, preconditioned)
    for _ in range(_MOST_STEPS):
        if residual.abs().amax() <= tolerance:
            break
        image = -finest.residual(direction, nothing)
        step = _share(product, _dot(direction, image))
        solution = solution + step * direction
        before, residual = residual, residual - step * image
        preconditioned = _cycle(levels, residual)
        # Polak's and Ribiere's rule bears that a cycle is not symmetric.
        turn = _share(_dot(residual - before, preconditioned), product)
        product = _dot(residual, preconditioned)
        direction = preconditioned + turn * direction
    return solution


def _levels(removed: Tensor) -> Iterator[_Level]:
    """The system from the picture's grid down to ever coarser ones; a coarse pixel is unknown if all below it are."""
    while True:
        hole = removed.double()
        yield _Level(hole, _weighted_sum(torch.ones_like(hole)))
        if max(removed.shape[-2:]) < 4:
            return
        removed = _halved(1 - hole) == 0
        if not removed.any():
            return


def _cycle(levels: Sequence[_Level], right: Tensor) -> Tensor:
    """[C, H, W], nearly the solution: what is rough is found here, what is smooth on the coarser grids."""
    level = levels[0]
    values = _DAMPING * right / level.weight  # a sweep that begins with nothing
    if len(levels) > 1:
        # Twice as far apart, neighbours differ four times as much from their mean.
        coarse = levels[1].hole * 4 * _halved(level.residual(values, right))
        found = _cycle(levels[1:], coarse)[None]
        values = values + level.hole * F.interpolate(found, size=right.shape[-2:], mode="bilinear")[0]
    return level.sweep(values, right)


def _halved(values: Tensor) -> Tensor:
    """[C, H / 2, W / 2] rounded up: means of 2 x 2 pixels."""
    return F.avg_pool2d(values, 2, ceil_mode=True)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """[C, 1, 1]: the inner product, for every channel its own."""
    return (one * other).sum((-2, -1), keepdim=True)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient; 0 where a channel is solved exactly, and there is nothing left to divide by."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def _weighted_sum(values: Tensor) -> Tensor:
    """[C, H, W], of every pixel the weighted sum of its neighbours inside the picture."""
    # 1/12, 1/6, 1/12 / 1/6, 0, 1/6 / 1/12, 1/6, 1/12 is 1, 2, 1 down times 1, 2, 1 across, less the middle.
    padded = F.pad(values, (1, 1, 1, 1))
    down = (padded[:, :-2] + padded[:, 2:]).add_(padded[:, 1:-1], alpha=2)
    across = (down[..., :-2] + down[..., 2:]).add_(down[..., 1:-1], alpha=2)
    return across.sub_(values, alpha=4).div_(12)
