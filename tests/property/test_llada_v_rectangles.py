"""Where LLaDA-V's image tokens lie in the picture, checked without the formulas.

A ramp picture says in its colours where every pixel came from. It goes through the real preparation, and
what arrives in a token's patch is averaged like any projector would see it: its mean colour must be the
centre of the token's rectangle.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from dcam_adapters.common.layouts import AnyResolutionLayout, PaddedLayout
from dcam_adapters.common.pictures import to_pixels
from dcam_adapters.common.siglip import VisionConfig
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.layout import picture_layout

TOWERS = [(56, 14), (30, 7), (32, 8)]  # with 7 of 30: two pixels of every crop are never seen
sizes = st.tuples(st.integers(24, 250), st.integers(24, 250))


def config(tower=(56, 14), aspect="anyres_max_4"):
    side, patch = tower
    return LLaDAVConfig(image_aspect_ratio=aspect, vision=VisionConfig(image_size=side, patch_size=patch))


def ramp(size):
    """Red is x, green is y, in steps of a 255th of the picture; blue is 1 wherever there is picture."""
    width, height = size
    x = np.round((np.arange(width) + 0.5) / width * 255)
    y = np.round((np.arange(height) + 0.5) / height * 255)
    red, green = np.broadcast_arrays(x[None], y[:, None])
    return Image.fromarray(np.stack([red, green, np.full_like(red, 255)], -1).astype(np.uint8))


def seen(layout, size):
    """[views] of [rows, cols, 3]: mean x, mean y in pixels and share of picture, of what each token sees."""
    side, extent, cells = layout.crop.side, layout.crop.seen, layout.crop.cells
    pixels = (to_pixels(layout.crops(ramp(size))).double() + 1) / 2
    patches = pixels[:, :, :extent, :extent].unfold(2, extent // cells, extent // cells)
    patches = patches.unfold(3, extent // cells, extent // cells)
    tokens = patches.mean((-1, -2)).flatten(2).transpose(1, 2)
    assert pixels.shape[-1] == side
    merged = layout.merge(tokens, torch.full((3,), float("nan"), dtype=torch.float64))
    assert len(merged) == layout.length
    scale = torch.tensor([*size, 1.0], dtype=torch.float64)
    return [merged[view.positions] * scale for view in layout.views(0)]


def agree(layout, size, tolerance):
    """Checks every token whose rectangle is wholly inside the picture."""
    width, height = size
    compared = 0
    for view, values in zip(layout.views(0), seen(layout, size), strict=True):
        x0, y0, x1, y1 = view.rectangles.unbind(-1)
        inside = (x0 > 0) & (y0 > 0) & (x1 < width) & (y1 < height)
        error_x = (values[..., 0] - (x0 + x1) / 2).abs()[inside]
        error_y = (values[..., 1] - (y0 + y1) / 2).abs()[inside]
        if inside.any():
            assert error_x.max() <= tolerance[0], view.name
            assert error_y.max() <= tolerance[1], view.name
        compared += int(inside.sum())
    return compared


def tolerance_of(layout, size):
    """Half a step of the 8-bit ramp and of rounding, and for resampled grids the unseen strip of a tile."""
    steps = [extent / 255 for extent in size]
    if isinstance(layout, AnyResolutionLayout) and layout.tiles.grid != layout.tiles.kept:
        dead = layout.crop.side - layout.crop.seen
        scale = [extent / resized for extent, resized in zip(size, layout.tiles.resized, strict=True)]
        # A blend of two tokens on either side of a seam may also be a fraction of a token off.
        return [step + (dead + 0.01) * s for step, s in zip(steps, scale, strict=True)]
    return steps


@settings(max_examples=60, deadline=None)
@given(size=sizes, tower=st.sampled_from(TOWERS))
def test_tokens_see_the_centre_of_their_rectangles(size, tower):
    layout = picture_layout(config(tower), size)
    assert agree(layout, size, tolerance_of(layout, size)) > 0


@settings(max_examples=30, deadline=None)
@given(size=sizes, tower=st.sampled_from(TOWERS))
def test_tokens_of_a_padded_square_see_the_centre_of_their_rectangles(size, tower):
    assume(max(size) < 1.5 * min(size))  # of a narrow strip no token lies wholly inside
    layout = picture_layout(config(tower, "pad"), size)
    assert agree(layout, size, [max(size) / 255] * 2) > 0


@pytest.mark.parametrize("size", [(640, 480), (500, 333), (1024, 768), (600, 1200)])
def test_the_published_tower(size):
    layout = picture_layout(config((384, 14)), size)
    # Source: spec, 5.1: 0.6 px on average, 3 px at worst beside a seam of tiles.
    assert agree(layout, size, [3.0 + extent / 255 for extent in size]) > 1000


@settings(max_examples=60, deadline=None)
@given(size=sizes, tower=st.sampled_from(TOWERS))
def test_base_rectangles_tile_what_is_seen(size, tower):
    layout = picture_layout(config(tower), size)
    cells = layout.views(0)[0].rectangles
    assert torch.equal(cells[:, 1:, 0], cells[:, :-1, 2])
    assert torch.equal(cells[1:, :, 1], cells[:-1, :, 3])
    assert cells[0, 0, :2].tolist() == [0, 0]
    share = layout.crop.seen / layout.crop.side
    assert cells[-1, -1, 2:].tolist() == pytest.approx([size[0] * share, size[1] * share])


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(20, 1500), st.integers(20, 1500)), tower=st.sampled_from([*TOWERS, (384, 14)])
)
def test_grid_rectangles_cover_the_picture_but_for_the_unseen_strips(size, tower):
    assume(max(size) < 6 * min(size))
    layout = picture_layout(config(tower), size)
    tiles, (_, grid) = layout.tiles, layout.views(0)
    x0, y0, x1, y1 = grid.rectangles.unbind(-1)
    assert (x1 >= x0).all()
    assert (y1 >= y0).all()
    dead = layout.crop.side - layout.crop.seen
    for starts, ends, axis in ((x0[0], x1[0], 0), (y0[:, 0], y1[:, 0], 1)):
        scale = size[axis] / tiles.resized[axis]
        gaps = starts[1:] - ends[:-1]
        assert gaps.min() >= -1e-9
        assert gaps.max() <= dead * scale + 1e-9
        # What is cut away as padding may take less than one token of the picture with it.
        token = layout.crop.seen / layout.crop.cells * scale
        assert starts[0] <= token
        assert ends[-1] >= size[axis] - token - dead * scale


# Source: spec, table of section 5: tiles (columns, rows), tokens kept, tokens after resampling, all tokens.
@pytest.mark.parametrize(
    ("size", "tiles", "kept", "grid", "length"),
    [
        ((336, 336), (1, 1), (27, 27), (27, 27), 1485),
        ((100, 100), (1, 1), (27, 27), (27, 27), 1485),
        ((640, 480), (2, 2), (40, 54), (40, 54), 2929),
        ((1024, 768), (3, 2), (54, 73), (46, 62), 3627),
        ((1280, 720), (4, 2), (54, 96), (40, 72), 3649),
        ((1920, 1080), (5, 3), (75, 135), (40, 72), 3649),
        ((600, 1200), (2, 4), (108, 54), (76, 38), 3693),
        ((3000, 300), (6, 1), (17, 162), (17, 162), 3500),
        ((2304, 2304), (6, 6), (162, 162), (54, 54), 3699),
    ],
)
def test_published_layouts(size, tiles, kept, grid, length):
    layout = picture_layout(LLaDAVConfig(), size)
    assert layout.tiles.tiles == tiles[::-1]
    assert (layout.tiles.kept, layout.tiles.grid, layout.length) == (kept, grid, length)


def test_pad_is_one_crop_with_one_newline():
    layout = picture_layout(LLaDAVConfig(image_aspect_ratio="pad"), (640, 480))
    assert isinstance(layout, PaddedLayout)
    assert layout.length == 730
    assert [view.name for view in layout.views(3)] == ["base"]
