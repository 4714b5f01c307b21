"""What do the image tokens really see? Found by changing the picture, without the layout's formulas."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
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

LEAST_CONTRAST = 0.1
"""One minus the mean cosine similarity of the changes that different patches make. Where it is less, the model's
tower mixes the whole picture into every token, as untrained ones may, and the question has no answer."""


@dataclass(frozen=True, eq=False)
class SeenPatch:
    """A bright patch, and what it changed in one view.

    Attributes:
        view: the grid of image tokens.
        patch: (x0, y0, x1, y1) of the patch in pixels.
        change: [rows, cols] float64, how far the embedding of each token moved.
    """

    view: ImageView
    patch: tuple[int, int, int, int]
    change: Tensor

    @property
    def is_hit(self) -> bool:
        """Whether the token that moved most shows a part of the patch."""
        row, col = divmod(int(self.change.argmax()), self.change.shape[1])
        return bool(self.touching[row, col])

    @property
    def chance(self) -> float:
        """Share of the view's tokens that would be a hit."""
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
    must be the one whose rectangle holds it. Rectangles may be tidy and still be those of another picture: of
    one that is mirrored, transposed, or cut into tiles in another order. Nothing outside of the image span may
    change.
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
        contrast = min(_contrast(seen) for seen in pictures)
        expect(contrast < LEAST_CONTRAST, f"{found} (by chance {sum(seen.chance for seen in own):.0f})")
        raise NotApplicableError(
            f"{found}, but wherever they are, all tokens of a picture change nearly alike (contrast {contrast:.2f}): "
            "the model mixes the whole picture into every token"
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
    seen = []
    for across, down in PLACES:
        x = round(x0 + across * (x1 - x0) - width / 2)
        y = round(y0 + down * (y1 - y0) - height / 2)
        patch = (max(0, x), max(0, y), x + width, y + height)
        bright = subject.prepare(patched(size, patch))
        moved = (bright.embeddings.double() - dark.embeddings.double())[0].norm(dim=-1).cpu()
        expect(
            not moved[:start].any() and not moved[stop:].any(),
            f"a patch in the picture changes embeddings outside of image_span {dark.image_span}",
        )
        expect(
            bool(moved.any()),
            f"a bright patch of {width}x{height} pixels changes nothing: the picture is not read",
        )
        seen += [SeenPatch(view, patch, moved[view.positions.cpu()]) for view in dark.views]
    return seen


def _contrast(seen: Sequence[SeenPatch]) -> float:
    """One minus the mean cosine similarity of the changes that two patches make in one view: the least of all."""
    values = []
    for name in {each.view.name for each in seen}:
        changes = torch.stack([each.change.flatten() for each in seen if each.view.name == name])
        unit, count = F.normalize(changes, dim=-1), len(changes)
        values.append(1 - float((unit @ unit.T).sum() - count) / (count * (count - 1)))
    return min(values)
