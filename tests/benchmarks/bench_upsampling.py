"""Guided upsampling: all maps as channels of one picture, against a full window for every map, in one run.

Both are kornia's guided filter, and checked to give the same maps before anything is timed. A full window is a
depthwise convolution of as many weights as it has pixels, and a picture repeated for every map is averaged anew for
each of them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

from dcam_plugins.refiners import guided_upsampling

from .allocated import peak_allocated
from .timing import median_milliseconds, on_one_thread

__all__ = ["run", "to_markdown"]

CELLS, PIXELS, EPSILON = 4, 16, 1e-3
LARGEST_DIFFERENCE = 1e-3


def run(*, sides: Sequence[int] = (8, 24), words: Sequence[int] = (1, 8), repeats: int = 5) -> dict[str, Any]:
    """Time both, and count what they allocate, on a made-up picture.

    Args:
        sides: sides of the square token grids; a cell becomes 16 x 16 pixels, a window is four cells wide.
        words: how many maps at once.
        repeats: timed calls of each, after one to warm up; the median counts.

    Returns:
        {"what", "machine", "results": [{"side", "words", "full_ms", "ours_ms", "full_bytes", "ours_bytes"}]}.
    """
    with on_one_thread():
        results = [_compare(side, count, repeats) for side in sides for count in words]
    return {
        "what": "guided upsampling, milliseconds and bytes for all maps together",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": 1,
        },
        "results": results,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = [
        f"Guided upsampling, all maps together: float32, {report['machine']['threads']} thread, torch "
        f"{report['machine']['torch']}",
        "",
        "| grid | maps | full windows, map by map | dcam | time ratio | memory ratio |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['side']}x{row['side']} | {row['words']} "
        f"| {row['full_ms']:.0f} ms, {row['full_bytes'] / 2**20:.0f} MiB "
        f"| {row['ours_ms']:.1f} ms, {row['ours_bytes'] / 2**20:.0f} MiB "
        f"| {row['full_ms'] / row['ours_ms']:.0f}x | {row['full_bytes'] / row['ours_bytes']:.1f}x |"
        for row in report["results"]
    ]
    return "\n".join(lines) + "\n"


def _compare(side: int, words: int, repeats: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    size = (side * PIXELS, side * PIXELS)
    blobs = torch.rand(1, 3, side, side, generator=generator)
    picture = F.interpolate(blobs, size, mode="nearest")[0]
    maps = torch.rand(words, side, side, generator=generator)

    def ours() -> Tensor:
        return guided_upsampling(maps, picture, CELLS, PIXELS, EPSILON)

    def full() -> Tensor:
        stretched = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
        guide = picture.expand(words, -1, -1, -1)
        window = 2 * round(CELLS * PIXELS / 2) + 1
        return guided_blur(guide, stretched, window, EPSILON)[:, 0].clamp(0, 1)

    difference = float((ours() - full()).abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(f"the two differ by {difference:.2e}: timing them would compare nothing")
    return {
        "side": side,
        "words": words,
        "full_ms": median_milliseconds(full, repeats),
        "ours_ms": median_milliseconds(ours, repeats),
        "full_bytes": peak_allocated(full),
        "ours_bytes": peak_allocated(ours),
        "largest_difference": difference,
    }
