"""What the report shows over the denoising: for every target its map and probability at each step, and the answer."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dcam_core.results.explanation import Explanation
from dcam_core.results.over_time import OverTime
from dcam_core.results.report.overlay import heat_palette, percent

__all__ = ["HEAT_TABLES", "InTime", "MovingCard", "in_time"]

_FINEST = 48  # cells along the longer side of a map in the page: the browser enlarges it smoothly
_WIDE, _HIGH = 240, 56  # of a curve, in units of its drawing

HEAT_TABLES: dict[str, str] = {
    name: " ".join(f"{value:.3g}" for value in heat_palette()[::15, channel] / 255)
    for channel, name in enumerate("RGBA")
}
"""The colours of the heat as tables of an SVG filter: red, green, blue and opacity at values from 0 to 1."""


@dataclass(frozen=True)
class MovingCard:
    """A target over the denoising.

    Attributes:
        label: its name.
        commit: the step that decided it; None if none did.
        commit_x: where that stands on the curve; None if it is not shown.
        frames: for each picture, a grey PNG of the map at each step, as a data: address.
        curve: the curve's points, as SVG writes them.
        dots: x and y of the curve at each step; the y of a step that did not compute the word is at the bottom.
        values: its probability at each step, for people.
    """

    label: str
    commit: int | None
    commit_x: float | None
    frames: tuple[tuple[str, ...], ...]
    curve: str
    dots: tuple[tuple[float, float], ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class InTime:
    """The part of the report about the denoising.

    Attributes:
        steps: step numbers, the last of which stands for the finished answer.
        names: how people call them.
        cards: one per target.
    """

    steps: tuple[int, ...]
    names: tuple[str, ...]
    cards: tuple[MovingCard, ...]


def in_time(explanation: Explanation) -> InTime | None:
    """Everything that the template shows; None where the explanation has nothing over time."""
    over_time = explanation.over_time
    if over_time is None:
        return None
    numbers = range(len(over_time.steps))
    return InTime(
        steps=over_time.steps,
        names=tuple(_name(over_time, number) for number in numbers),
        cards=tuple(_card(explanation, over_time, index) for index in range(len(explanation.targets))),
    )


def _name(over_time: OverTime, number: int) -> str:
    step = over_time.steps[number]
    return "finished" if step == over_time.taken else f"step {step} of {over_time.taken}"


def _card(explanation: Explanation, over_time: OverTime, index: int) -> MovingCard:
    first, last = over_time.steps[0], over_time.steps[-1]
    across = [_WIDE * (step - first) / max(1, last - first) for step in over_time.steps]
    values = over_time.probabilities[:, index].tolist()
    dots = tuple(
        (round(x, 1), round(_HIGH * (1 - (0.0 if math.isnan(value) else value)), 1))
        for x, value in zip(across, values, strict=True)
    )
    commit = over_time.commit_steps[index]
    known = [dot for dot, value in zip(dots, values, strict=True) if not math.isnan(value)]
    return MovingCard(
        label=explanation.label(index),
        commit=commit,
        commit_x=dots[over_time.steps.index(commit)][0] if commit in over_time.steps else None,
        frames=tuple(tuple(map(_grey, part.maps[:, index])) for part in over_time.pictures),
        curve=" ".join(f"{x:g},{y:g}" for x, y in known),
        dots=dots,
        values=tuple("not asked" if math.isnan(value) else percent(value) for value in values),
    )


def _grey(grid: Tensor) -> str:
    """A map [rows, columns] as a small grey PNG in a data: address; finer maps are made coarser."""
    if max(grid.shape) > _FINEST:
        scale = _FINEST / max(grid.shape)
        size = [max(1, round(cells * scale)) for cells in grid.shape]
        grid = F.interpolate(grid[None, None], size=size, mode="area")[0, 0]
    buffer = io.BytesIO()
    values = (grid.double() * 255).round().numpy().astype(np.uint8)
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
