"""Refining maps: our batched pipeline against the loop over pixels, in one run on one thread.

Both do the same work, checked before anything is timed: the four modules with the released code's parameters,
float32 in batches for ours, one float64 map after the other for the loop, as it is published. The paper's
variant, whose kernels are larger, is timed beside them on the same maps; it has no loop to compare with.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins.refiners import (
    AdaptiveKernelDenoising,
    ContextualBackgroundAttenuation,
    DistributionAwareConfidenceGating,
    MinMax,
    SingleInstanceCausalDebiasing,
)

from .reference_refinement import refine_loop
from .timing import median_milliseconds, milliseconds, on_one_thread

__all__ = ["run", "to_markdown"]

IDS = (5, 7, 5, 9, 11, 13, 15, 17)
LARGEST_DIFFERENCE = 1e-5

AS_RELEASED: tuple[Refiner, ...] = (
    AdaptiveKernelDenoising(denoising_steps=2),
    DistributionAwareConfidenceGating(kernel_size=1),
    ContextualBackgroundAttenuation(),
    MinMax(),
    SingleInstanceCausalDebiasing(repetition_weight=0.05, peak_weight=0.02),
)
AS_PUBLISHED: tuple[Refiner, ...] = (
    AdaptiveKernelDenoising(),
    DistributionAwareConfidenceGating(),
    ContextualBackgroundAttenuation(),
    MinMax(),
    SingleInstanceCausalDebiasing(),
)


def run(
    *, sides: Sequence[int] = (24, 27), batch: int = 64, repeats: int = 15, loops: int = 5
) -> dict[str, Any]:
    """Time both on made-up maps.

    Args:
        sides: sides of the square token grids.
        batch: maps per call of ours.
        repeats: timed calls of ours, after one to warm up; the median counts.
        loops: maps timed with the loop, after one to warm up; the median counts.

    Returns:
        {"what", "machine", "settings", "results": [{"side", "ours_ms", "loop_ms", "ratio", ...}]}, times in
        milliseconds per map; every number of one result is from the same run.
    """
    with on_one_thread():
        results = [_compare(side, batch, repeats, loops) for side in sides]
    return {
        "what": "refinement, milliseconds per map",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": 1,
        },
        "settings": {"batch": batch, "repeats": repeats, "loops": loops, "dtype": "float32"},
        "results": results,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    settings, machine = report["settings"], report["machine"]
    lines = [
        f"Refinement, ms per map: float32, batch {settings['batch']}, {machine['threads']} thread, "
        f"torch {machine['torch']}, {machine['processor']}",
        "",
        "| grid | loop over pixels | dcam, same parameters | ratio | dcam, as published |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['side']}x{row['side']} | {row['loop_ms']:.2f} | {row['ours_ms']:.3f} "
        f"| {row['ratio']:.0f}x | {row['published_ms']:.3f} |"
        for row in report["results"]
    ]
    return "\n".join(lines) + "\n"


def _compare(side: int, batch: int, repeats: int, loops: int) -> dict[str, Any]:
    maps = _made_up_maps(batch, side)
    released = RefinerContext(raw=maps, denoising_steps=2, image_size=side, answer_ids=IDS)
    published = RefinerContext(raw=maps, denoising_steps=32, image_size=384, answer_ids=IDS)

    singles = [one.double().numpy() for one in maps[: loops + 1]]

    def loop(one: np.ndarray) -> np.ndarray:
        return refine_loop(one, IDS, denoising_steps=2, image_size=side)

    ours = _refine(AS_RELEASED, maps, released)[0].double().numpy()
    difference = float(np.abs(ours - loop(singles[0])).max())
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(f"ours and the loop differ by {difference:.2e}: timing them would compare nothing")

    loop_ms = statistics.median(milliseconds(lambda one=one: loop(one)) for one in singles[1:])
    ours_ms = _warm_milliseconds(lambda: _refine(AS_RELEASED, maps, released), repeats) / batch
    published_ms = _warm_milliseconds(lambda: _refine(AS_PUBLISHED, maps, published), repeats) / batch
    return {
        "side": side,
        "loop_ms": loop_ms,
        "ours_ms": ours_ms,
        "ratio": loop_ms / ours_ms,
        "published_ms": published_ms,
        "largest_difference": difference,
    }


def _refine(refiners: Sequence[Refiner], maps: Tensor, context: RefinerContext) -> Tensor:
    for refiner in refiners:
        maps = refiner(maps, context)
    return maps


def _made_up_maps(count: int, side: int) -> Tensor:
    """[count, side, side] float32 in [0, 1]: a blob on noise, at a different place in each."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(side, dtype=torch.float32)
    x, y = torch.rand(2, count, 1, generator=generator) * side
    width = 2 * (side / 6) ** 2
    blob = torch.exp(-((axis - y) ** 2)[:, :, None] / width - ((axis - x) ** 2)[:, None, :] / width)
    maps = blob + 0.3 * torch.rand(count, side, side, generator=generator)
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / maps.amax(dim=(1, 2), keepdim=True)


def _warm_milliseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    return median_milliseconds(call, repeats)
