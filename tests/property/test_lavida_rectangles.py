"""Where LaViDa's image tokens lie in the picture, checked without the formulas.

As for LLaDA-V: a ramp picture says in its colours where every pixel came from. Here a token blends the two by
two patches around its centre, so it shows that centre, not the whole of its nominal cell.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from dcam_adapters.common.layouts import AnyResolutionLayout
from dcam_adapters.common.pictures import to_pixels
from dcam_adapters.common.siglip import VisionConfig
from dcam_adapters.lavida.config import LaViDaLLaDAConfig
from dcam_adapters.lavida.layout import picture_layout
from dcam_adapters.lavida.pooling import SpatialPooling
from dcam_core.errors import PictureError

TOWERS = [
    (76, 14),
    (84, 14),
    (32, 8),
    (384, 14),
]  # odd and even P; with 14 of 76 and 384 six pixels are unseen
sizes = st.tuples(st.integers(24, 250), st.integers(24, 250))
towers = st.sampled_from(TOWERS)


def config(tower, aspect="anyres"):
    side, patch = tower
    canvases = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    return LaViDaLLaDAConfig(
        image_aspect_ratio=aspect,
        image_grid_pinpoints=tuple((columns * side, rows * side) for columns, rows in canvases),
        vision=VisionConfig(image_size=side, patch_size=patch),
    )


def laid_out(size, tower, aspect="anyres"):
    """Layout and pooling of a picture."""
    pooling = SpatialPooling("bilinear", tower[0] // tower[1])
    try:
        return picture_layout(config(tower, aspect), size, pooling.cells), pooling
    except PictureError:
        # Of a narrow picture no row of tokens may remain, which is refused; of others there must be one.
        assume(max(size) < 3 * min(size))
        raise


def ramp(size):
    """Red is x, green is y, in steps of a 255th of the picture."""
    width, height = size
    x = np.round((np.arange(width) + 0.5) / width * 255)
    y = np.round((np.arange(height) + 0.5) / height * 255)
    red, green = np.broadcast_arrays(x[None], y[:, None])
    return Image.fromarray(np.stack([red, green, np.full_like(red, 255)], -1).astype(np.uint8))


def agree(layout, pooling, size, patch, tolerance):
    """Compares the pooled patches' mean colours with rectangles well inside the picture; how many there were."""
    pixels = (to_pixels(layout.crops(ramp(size))).double() + 1) / 2
    seen = layout.crop.seen
    patches = pixels[:, :, :seen, :seen].unfold(2, patch, patch).unfold(3, patch, patch)
    tokens = pooling(patches.mean((-1, -2)).flatten(2).transpose(1, 2))
    merged = layout.merge(tokens, torch.full((3,), float("nan"), dtype=torch.float64))
    assert len(merged) == layout.length
    extent = torch.tensor([*size, 1.0], dtype=torch.float64)
    compared = 0
    for view in layout.views(0):
        values = merged[view.positions] * extent
        assert not values.isnan().any()
        x0, y0, x1, y1 = view.rectangles.unbind(-1)
        # The blend reaches half a cell beyond the rectangle: beside padding it would read black.
        wide, tall = x1 - x0, y1 - y0
        inside = (x0 > wide) & (y0 > tall) & (x1 < size[0] - wide) & (y1 < size[1] - tall)
        for axis, middle in enumerate(((x0 + x1) / 2, (y0 + y1) / 2)):
            error = (values[..., axis] - middle).abs()[inside]
            if inside.any():
                assert error.max() <= tolerance[axis], view.name
        compared += int(inside.sum())
    return compared


@settings(max_examples=25, deadline=None)
@given(size=sizes, tower=st.sampled_from(TOWERS[:3]))
def test_tokens_show_the_centre_of_their_rectangles(size, tower):
    assume(max(size) < 4 * min(size))  # of a narrower one few tokens, or none, remain
    layout, pooling = laid_out(size, tower)
    # Half a step of the 8-bit ramp and of rounding, on the picture and on the resized canvas.
    agree(layout, pooling, size, tower[1], [1.5 * extent / 255 + 0.5 for extent in size])


@pytest.mark.parametrize("size", [(640, 480), (500, 1500), (1000, 500), (336, 336)])
def test_the_published_tower(size):
    layout, pooling = laid_out(size, (384, 14))
    # Source: spec, section 6.4: about 0.4 px; the ramp adds half a step.
    assert agree(layout, pooling, size, 14, [0.6 + extent / 255 for extent in size]) > 100


@settings(max_examples=20, deadline=None)
@given(size=sizes, tower=st.sampled_from(TOWERS[:3]))
def test_tokens_of_a_padded_square_show_the_centre_of_their_rectangles(size, tower):
    assume(max(size) < 1.5 * min(size))
    layout, pooling = laid_out(size, tower, "pad")
    agree(layout, pooling, size, tower[1], [1.5 * max(size) / 255 + 0.5] * 2)


@settings(max_examples=80, deadline=None)
@given(size=st.tuples(st.integers(20, 2500), st.integers(20, 2500)), tower=towers)
def test_cells_of_a_view_do_not_overlap_and_cover_what_is_seen(size, tower):
    assume(max(size) < 4 * min(size))  # of a narrower one few tokens, or none, remain
    layout, _ = laid_out(size, tower)
    width, height = size
    for view in layout.views(0):
        x0, y0, x1, y1 = view.rectangles.unbind(-1)
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        assert (x1 <= width).all()
        assert (y1 <= height).all()
        # A grid: columns share their edges, rows theirs, and each begins where the one before has ended.
        assert torch.equal(x0, x0[:1].expand_as(x0))
        assert torch.equal(y0, y0[:, :1].expand_as(y0))
        assert (x0[0, 1:] >= x1[0, :-1] - 1e-9).all()
        assert (y0[1:, 0] >= y1[:-1, 0] - 1e-9).all()
    base, grid = layout.views(0)
    share = layout.crop.seen / layout.crop.side
    area = (base.rectangles[..., 2:] - base.rectangles[..., :2]).prod(-1).sum()
    assert area.item() == pytest.approx(width * height * share**2)
    assert (grid.rectangles[0, 0, :2].numpy() <= _cell(layout)).all()
    # What is left out are strips of unseen pixels, at most one for every tile, and a dropped cell.
    gaps = _unseen(layout, grid.rectangles)
    strip = layout.crop.side - layout.crop.seen
    for axis, tiles in ((0, layout.tiles.tiles[1]), (1, layout.tiles.tiles[0])):
        scale = size[axis] / layout.tiles.resized[axis]
        assert gaps[axis] <= tiles * strip * scale + 2 * _cell(layout)[axis] + 1e-6


def _cell(layout):
    """(width, height) of a grid token in the picture."""
    pixels = layout.crop.seen / layout.crop.cells
    pairs = zip(layout.size, layout.tiles.resized, strict=True)
    return np.array([pixels * extent / resized for extent, resized in pairs])


def _unseen(layout, rectangles):
    """(along x, along y) how much of the picture no grid token shows."""
    covered = rectangles[0, :, 2] - rectangles[0, :, 0], rectangles[:, 0, 3] - rectangles[:, 0, 1]
    return [extent - float(part.sum()) for extent, part in zip(layout.size, covered, strict=True)]


@settings(max_examples=80, deadline=None)
@given(size=st.tuples(st.integers(20, 2500), st.integers(20, 2500)), tower=towers)
def test_positions_are_each_used_once_and_newlines_end_the_rows(size, tower):
    assume(max(size) < 4 * min(size))  # of a narrower one few tokens, or none, remain
    layout, _ = laid_out(size, tower)
    assert isinstance(layout, AnyResolutionLayout)
    views = layout.views(5, picture=2)
    used = torch.cat([view.positions.flatten() for view in views])
    assert len(used.unique()) == len(used)
    assert used.min() == 5
    assert used.max() < 5 + layout.length
    missing = sorted(set(range(5, 5 + layout.length)) - set(used.tolist()))
    assert missing == (views[1].positions[:, -1] + 1).tolist()
    assert {view.picture for view in views} == {2}
