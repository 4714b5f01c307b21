"""The published refinement as a loop over pixels, in numpy: the yardstick of `bench_refinement`, not for use.

Written from the specification of the method (sections 3 to 8) in the plainest way, one map at a time, as the
released code works. Its jitter and its fall-backs are left out: a constant window gives its median.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_gaussian_loop", "refine_loop"]

Map = NDArray[np.floating]


def refine_loop(raw: Map, ids: Sequence[int], *, denoising_steps: int, image_size: int) -> Map:
    """Refine one map with the weights of the released code: AKD, DACG (which changes nothing), CBA, SICD.

    Args:
        raw: [H, W] in [0, 1].
        ids: token ids that SICD counts.
        denoising_steps: number of sampler steps.
        image_size: side of the picture in pixels.
    """
    denoised = rank_gaussian_loop(raw, kernel_size(float(raw.std()), denoising_steps, image_size))
    confidence_threshold(denoised)  # part of the work, though the release's blur leaves the map alone
    attenuated = attenuate_background(denoised)
    stretched = min_max(np.clip(attenuated, 0, raw.max()))
    return debias(stretched, ids)


def kernel_size(spread: float, denoising_steps: int, image_size: int) -> int:
    """Side of the kernel (section 3)."""
    factors = min(denoising_steps / 16, 2.0) * min(5 * spread, 2.0) * min(image_size / 512, 1.5)
    size = int(3 * factors)
    if size % 2 == 0:
        size += 1
    return min(max(size, 3), 11)


def rank_gaussian_loop(raw: Map, size: int) -> Map:
    """The rank-Gaussian filter, pixel by pixel (section 3)."""
    padded = np.pad(raw, size // 2, mode="reflect")
    distances = np.arange(size * size) - size * size // 2
    filtered = np.zeros_like(raw)
    for row in range(raw.shape[0]):
        for column in range(raw.shape[1]):
            window = np.sort(padded[row : row + size, column : column + size].ravel())
            mean, spread = window.mean(), window.std()
            if mean <= 0:
                continue
            if spread == 0:
                filtered[row, column] = window[size * size // 2]
                continue
            width = spread / mean
            weights = np.exp(-(distances**2) / (2 * width**2))
            filtered[row, column] = (window * weights).sum() / weights.sum()
    return filtered


def confidence_threshold(values: Map) -> float:
    """The threshold of DACG (section 4)."""
    positive = values[values > 0]
    if positive.size == 0:
        return 1e-6
    if values.std() > 0.22:
        percent = 90
    elif values.mean() > 0.35:
        percent = 75
    elif values.mean() < 0.25:
        percent = 80
    else:
        percent = 85
    return max(float(np.percentile(positive, percent)), 1e-6)


def attenuate_background(values: Map) -> Map:
    """CBA (section 5)."""
    positive = values[values > 0]
    threshold = 1e-6
    if positive.size > 0:
        threshold = (
            0.15 * np.percentile(positive, 50)
            + 0.15 * np.percentile(values, 60)
            + 0.20 * positive.mean()
            + 0.015 * values.max()
        )
    background = values < threshold
    attenuated = values.copy()
    attenuated[background] *= np.clip(values[background] / max(threshold, 1e-8), 0.5, 1)
    return attenuated


def min_max(values: Map) -> Map:
    """Min-max normalisation (section 6)."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low + 1e-8) if high > low else values


def debias(values: Map, ids: Sequence[int]) -> Map:
    """SICD (section 7)."""
    repeated = sum(count >= 2 for count in Counter(ids).values())
    share = repeated / len(ids) if ids else 0.0
    pattern = 0.05 * share + 0.02 * (values > values.mean() + 2 * values.std())
    if pattern.max() <= 0:
        return values
    scale = min((values * pattern).sum() / (pattern * pattern).sum(), 0.5)
    debiased = np.maximum(values - scale * pattern, 0)
    if np.ptp(debiased) < 0.9 * np.ptp(values):
        return values
    return debiased
