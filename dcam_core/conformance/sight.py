"""What do the image tokens really see? Found by changing the picture, without the layout's formulas."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.conformance.check import NotApplicableError, expect
from dcam_core.conformance.pictures import patched

if TYPE_CHECKING:
    from dcam_core.conformance.subject import Subject
    from dcam_core.inputs import ImageView

__all__ = ["SeenPatch", "see_patches", "sight"]

SHAPES = ("square", "wide", "tall", "odd")

PLACES = ((0.2, 0.25), (0.5, 0.5), (0.8, 0.3), (0.3, 0.8), (0.7, 0.75), (0.45, 0.15))
"""Centres of the patches, as shares of the part of the picture that the tokens claim to show."""

LEAST_HITS = 0.8
"""Share of the patches that must be found where they are. The result says how many would be by chance: a patch
touches a quarter of 4 x 4 tokens, and one in a hundred of as many as published models have."""

MOST_SPREAD = 0.6
"""Share of a view's tokens that move at least half as much as the one that moves most. Where it is more on average,
the model mixes the whole picture into every token, as untrained ones may, and the question has no answer."""


@dataclass(frozen=True, eq=False)
class SeenPatch:
    """A bright patch, and what it changed in one view.

    Attributes:
        view: the grid of image tokens.
        patch: (x0, y0, x1, y1) of the patch in pixels.
        change: [rows, cols] float64, how far the embedding of each token moved.
        usual: [rows, cols] float64, how far it moves for most patches, wherever they are. A patch also shifts
            what a network normalises over the whole picture by, and some tokens, those at the edge above all,
            answer to that.
    """

    view: ImageView
    patch: tuple[int, int, int, int]
    change: Tensor
    usual: Tensor

    @property
    def is_hit(self) -> bool:
        """Whether the token that moved most, beyond what is usual, shows a part of the patch."""
        return bool(self.touching.flatten()[(self.change - self.usual).argmax()])

    @property
    def spread(self) -> float:
        """Share of the tokens that moved at least half as much as the one that moved most."""
        return float((self.change >= self.change.max() / 2).double().mean())

    @property
    def chance(self) -> float:
        """Share of the view's tokens that show a part of the patch."""
        return float(self.touching.double().mean())

    @property
    def touching(self) -> Tensor:
        """[rows, cols] bool, the tokens that show a part of the patch."""
        x0, y0, x1, y1 = self.patch
        left, top, right, bottom = self.view.rectangles.cpu().unbind(-1)
        near = (left < x1) & (right > x0) & (top < y1) & (bottom > y0)
        return near & (right > left) & (bottom > top)


def sight(subject: Subject) -> str:
    """The tokens whose rectangles hold a part of the picture are the tokens that see it.

    One bright patch is painted at several places of dark pictures, and the token whose embedding changes most
    (beyond what it does for most patches) must be one whose rectangle holds a part of it. Rectangles may be tidy
    and still be those of another picture: of one that is mirrored, transposed, or cut into tiles in another
    order. Nothing outside of the image span may change.
    """
    pictures = [see_patches(subject, subject.sizes[name]) for name in SHAPES]
    views: dict[str, list[SeenPatch]] = defaultdict(list)
    for seen in itertools.chain(*pictures):
        views[seen.view.name].append(seen)
    for name, own in views.items():
        hits = sum(seen.is_hit for seen in own)
        if hits >= LEAST_HITS * len(own):
            continue
        found = f"of {len(own)} bright patches, {hits} changed most a token of view {name!r} that shows them"
        spread = sum(seen.spread for seen in own) / len(own)
        expect(spread > MOST_SPREAD, f"{found} (by chance {sum(seen.chance for seen in own):.0f})")
        raise NotApplicableError(
            f"{found}, but wherever they are, {spread:.0%} of the tokens move much: the model mixes the whole "
            "picture into every token"
        )
    everything = list(itertools.chain(*pictures))
    hits, chance = sum(seen.is_hit for seen in everything), sum(seen.chance for seen in everything)
    return f"{hits} of {len(everything)} bright patches changed most a token that shows them (by chance {chance:.0f})"


def see_patches(subject: Subject, size: tuple[int, int]) -> list[SeenPatch]:
    """Paint a bright patch at several places of a dark picture, and measure which image tokens move.

    Args:
        subject: the adapter.
        size: (width, height) of the picture.

    Returns:
        One entry per place and view.

    Raises:
        BrokenPromiseError: a position outside of the image span changed, or no position in it.
    """
    dark = subject.prepare(patched(size, None))
    cells = torch.cat([view.rectangles.flatten(0, 1) for view in dark.views]).cpu()
    left, top, right, bottom = cells[(cells[:, 2] > cells[:, 0]) & (cells[:, 3] > cells[:, 1])].unbind(-1)
    # As large as the largest token: of every view at least one token must show a good part of it.
    width, height = (max(2, round(float(side.max()))) for side in (right - left, bottom - top))
    (x0, x1), (y0, y1) = (float(left.min()), float(right.max())), (float(top.min()), float(bottom.max()))
    start, stop = dark.image_span
    patches, moved = [], []
    for across, down in PLACES:
        x = round(x0 + across * (x1 - x0) - width / 2)
        y = round(y0 + down * (y1 - y0) - height / 2)
        patch = (max(0, x), max(0, y), x + width, y + height)
        bright = subject.prepare(patched(size, patch))
        distance = (bright.embeddings.double() - dark.embeddings.double())[0].norm(dim=-1).cpu()
        expect(
            not distance[:start].any() and not distance[stop:].any(),
            f"a patch in the picture changes embeddings outside of image_span {dark.image_span}",
        )
        expect(
            bool(distance.any()),
            f"a bright patch of {width}x{height} pixels changes nothing: the picture is not read",
        )
        patches.append(patch)
        moved.append(distance)
    usual = torch.stack(moved).median(0).values
    return [
        SeenPatch(view, patch, distance[view.positions.cpu()], usual[view.positions.cpu()])
        for patch, distance in zip(patches, moved, strict=True)
        for view in dark.views
    ]
