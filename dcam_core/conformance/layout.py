"""Is the picture where the adapter says? Positions, rectangles, and what the tokens really see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.conformance.check import expect
from dcam_core.conformance.pictures import scene

if TYPE_CHECKING:
    from dcam_core.conformance.subject import Subject
    from dcam_core.inputs import ImageView, Inputs

__all__ = ["image_span", "rectangles"]

LEAST_SHARE = 0.75
"""Share of its bounding box that a view's tokens cover: a tower whose patches do not divide its picture is blind
in a strip at the end of every tile, of 7 % with the narrowest ones known."""

LEAST_EXTENT = 0.85
"""Share of the picture's width, or of its height, that every view shows: what crops, crops one of them."""


def image_span(subject: Subject) -> str:
    """The prompt's embeddings are the model's own, and every image token is within the image span, once.

    Activations and gradients are read at these positions: a position too far to the left, and every map shows
    what the model did with the word before.
    """
    adapter, lengths = subject.adapter, []
    for name, size in subject.sizes.items():
        inputs, where = subject.prepare(scene(size)), _where(name, size)
        embeddings, (start, stop) = inputs.embeddings, inputs.image_span
        expect(
            embeddings.ndim == 3 and len(embeddings) == 1,
            f"{where}: embeddings are {list(embeddings.shape)}, expected [1, L, D]",
        )
        expect(
            (embeddings.dtype, embeddings.device) == (adapter.dtype, adapter.device),
            f"{where}: embeddings are {embeddings.dtype} on {embeddings.device}, the model is {adapter.dtype} on "
            f"{adapter.device}",
        )
        expect(bool(embeddings.isfinite().all()), f"{where}: embeddings are not finite")
        expect(not embeddings.requires_grad, f"{where}: embeddings are part of a graph: detach them")
        expect(inputs.picture_sizes == (size,), f"{where}: picture_sizes are {inputs.picture_sizes}")
        expect(
            0 <= start < stop <= inputs.prompt_length,
            f"{where}: image_span {inputs.image_span} is not within the prompt of {inputs.prompt_length} positions",
        )
        positions = _positions(inputs)
        expect(len(positions) > 0, f"{where}: there is no image token")
        expect(
            start <= int(positions.min()) and int(positions.max()) < stop,
            f"{where}: image tokens are at {int(positions.min())} to {int(positions.max())}, outside of "
            f"image_span {inputs.image_span}",
        )
        twice = len(positions) - len(set(positions.tolist()))
        expect(twice == 0, f"{where}: {twice} position(s) belong to more than one image token")
        lengths.append(len(positions))
    return f"{len(lengths)} shapes, {min(lengths)} to {max(lengths)} image tokens"


def rectangles(subject: Subject) -> str:
    """The rectangles of a view's tokens lie in the picture side by side, in reading order, without holes.

    Maps are laid on the picture by these rectangles. What an adapter crops away has no token, and what it pads
    has rectangles without area; both are allowed, along one axis of the picture.
    """
    covered = []
    for name, size in subject.sizes.items():
        for view in subject.prepare(scene(size)).views:
            covered.append(_tiled(view, size, f"{_where(name, size)}, view {view.name!r}"))
    return f"{len(covered)} views, each covers {min(covered):.0%} to {max(covered):.0%} of its picture"


def _tiled(view: ImageView, size: tuple[int, int], where: str) -> float:
    """Share of the picture that a view covers; its rectangles are checked."""
    cells = view.rectangles.double().cpu()
    expect(bool(cells.isfinite().all()), f"{where}: rectangles are not finite")
    low, high = cells[..., :2], cells[..., 2:]
    extent = torch.tensor(size, dtype=torch.float64)
    slack = 1e-6 * float(extent.max())
    expect(
        bool((low >= -slack).all() and (high <= extent + slack).all()),
        f"{where}: rectangles reach from {low.amin((0, 1)).tolist()} to {high.amax((0, 1)).tolist()}, outside of the "
        f"picture",
    )
    expect(bool((high >= low).all()), f"{where}: a rectangle ends before it begins")
    sides = high - low
    has_area = (sides > slack).all(-1)
    expect(bool(has_area.any()), f"{where}: no rectangle has an area")
    for axis, dimension, name in ((0, 1, "column"), (1, 0, "row")):
        lengths = sides[..., axis][has_area]
        _neighbours(
            low[..., axis], high[..., axis], dimension, float(lengths.max()), slack, f"{where}: {name}"
        )
    box_low, box_high = low[has_area].amin(0), high[has_area].amax(0)
    shown = (box_high - box_low) / extent
    expect(
        float(shown.max()) >= LEAST_EXTENT,
        f"{where}: shows {float(shown[0]):.0%} of the picture's width and {float(shown[1]):.0%} of its height",
    )
    area = float(sides.prod(-1).sum())
    share = area / float((box_high - box_low).prod())
    expect(
        LEAST_SHARE <= share <= 1 + 1e-6, f"{where}: the rectangles cover {share:.0%} of the area they span"
    )
    return area / float(extent.prod())


def _neighbours(low: Tensor, high: Tensor, dimension: int, cell: float, slack: float, where: str) -> None:
    """Check [rows, cols] starts and ends along one dimension of the grid."""
    count = low.shape[dimension]
    if count < 2:
        return
    first, second = slice(0, count - 1), slice(1, count)
    ends = high[:, first] if dimension == 1 else high[first]
    starts = low[:, second] if dimension == 1 else low[second]
    gaps = starts - ends
    expect(
        float(gaps.min()) >= -slack,
        f"{where}s overlap, or are not in reading order, by up to {-float(gaps.min()):.3g} pixels",
    )
    expect(
        float(gaps.max()) <= cell,
        f"{where}s leave a gap of {float(gaps.max()):.3g} pixels, wider than the largest token ({cell:.3g} pixels)",
    )


def _positions(inputs: Inputs) -> Tensor:
    """[N] positions of all image tokens."""
    return torch.cat([view.positions.flatten() for view in inputs.views]).cpu()


def _where(name: str, size: tuple[int, int]) -> str:
    return f"{name} picture of {size[0]}x{size[1]} pixels"
