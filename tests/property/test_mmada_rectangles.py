"""Where MMaDA's image tokens lie in the picture, checked without the formulas.

A ramp picture says in its colours where every pixel came from; a bright patch says which token sees it. Both go
through the real preparation.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from dcam_adapters.common.pictures import to_pixels
from dcam_adapters.mmada.layout import IMAGE_START, PictureLayout
from dcam_core.errors import PictureError

SQUARES = [(64, 4), (64, 8), (96, 12)]
MAKERS = [PictureLayout.centre_crop, PictureLayout.squash]
sizes = st.tuples(st.integers(24, 250), st.integers(24, 250))


def ramp(size):
    """Red is x, green is y, in steps of a 255th of the picture."""
    width, height = size
    x = np.round((np.arange(width) + 0.5) / width * 255)
    y = np.round((np.arange(height) + 0.5) / height * 255)
    red, green = np.broadcast_arrays(x[None], y[:, None])
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], -1).astype(np.uint8))


def per_cell(layout, picture):
    """[cells, cells, 3] float64 in [0, 1]: mean colour of the pixels of each code's cell."""
    pixels = (to_pixels([layout.square(picture)])[0].double() + 1) / 2
    assert pixels.shape == (3, layout.side, layout.side)
    step = layout.side // layout.cells
    return pixels.unfold(1, step, step).unfold(2, step, step).mean((-1, -2)).permute(1, 2, 0)


def agree(layout, size):
    """Checks that every token's mean colour is the centre of its rectangle, and gives the largest error in pixels."""
    (view,) = layout.views()
    x0, y0, x1, y1 = view.rectangles.unbind(-1)
    seen = per_cell(layout, ramp(size))
    # Beside the picture's edge the resizing filter is cut off, which pulls the colours inwards.
    inside = (x0 > 0) & (y0 > 0) & (x1 < size[0]) & (y1 < size[1])
    for axis, centre in ((0, (x0 + x1) / 2), (1, (y0 + y1) / 2)):
        error = (seen[..., axis] * size[axis] - centre).abs()
        assert error[inside].max() <= size[axis] / 255
        # The offset of the crop is a whole pixel of the resized picture; at the edge one more may be lost.
        assert error.max() <= size[axis] / 255 + size[axis] / layout.resized[axis]


@settings(max_examples=60, deadline=None)
@given(size=sizes, square=st.sampled_from(SQUARES), make=st.sampled_from(MAKERS))
def test_tokens_see_the_centre_of_their_rectangles(size, square, make):
    agree(make(size, *square), size)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (1024, 768), (600, 1200), (512, 512)])
@pytest.mark.parametrize("make", MAKERS)
def test_the_published_square(size, make):
    agree(make(size, 512, 32), size)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(60, 250), st.integers(60, 250)),
    where=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_the_token_whose_rectangle_is_painted_is_the_one_that_changes(size, where):
    layout = PictureLayout.centre_crop(size, 64, 4)
    (view,) = layout.views()
    x0, y0, x1, y1 = view.rectangles[where].round().int().tolist()
    assume(x1 - x0 > 2 and y1 - y0 > 2)
    dark = Image.new("RGB", size)
    bright = dark.copy()
    bright.paste((255, 255, 255), (x0, y0, x1, y1))
    change = (per_cell(layout, bright) - per_cell(layout, dark)).abs().sum(-1)
    assert divmod(int(change.argmax()), 4) == where
    assert change[where] > 0.8 * 3
    others = change.clone()
    others[where] = 0
    assert others.max() < 0.2 * 3


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    square=st.sampled_from([*SQUARES, (512, 32)]),
    make=st.sampled_from(MAKERS),
)
def test_rectangles_tile_what_the_model_sees(size, square, make):
    assume(max(size) < 60 * min(size))
    layout = make(size, *square)
    (view,) = layout.views()
    cells = view.rectangles
    assert view.positions.flatten().tolist() == list(range(IMAGE_START, IMAGE_START + square[1] ** 2))
    assert torch.equal(cells[:, 1:, 0], cells[:, :-1, 2])
    assert torch.equal(cells[1:, :, 1], cells[:-1, :, 3])
    assert (cells[..., 2:] > cells[..., :2]).all()
    assert (cells >= 0).all()
    assert (cells[..., 2] <= size[0]).all()
    assert (cells[..., 3] <= size[1]).all()
    x0, y0, x1, y1 = *cells[0, 0, :2].tolist(), *cells[-1, -1, 2:].tolist()
    if make == PictureLayout.squash:
        assert (x0, y0, x1, y1) == pytest.approx((0, 0, *size))
        return
    # The short side is seen whole; of the long one the middle, as long as the short one.
    short = int(size[0] > size[1])
    spans, starts = (x1 - x0, y1 - y0), (x0, y0)
    assert spans[short] == pytest.approx(size[short])
    pixel = max(size) / max(layout.resized)
    assert spans[1 - short] == pytest.approx(min(size), rel=1 / square[0])
    assert starts[1 - short] == pytest.approx((size[1 - short] - spans[1 - short]) / 2, abs=pixel / 2 + 1e-6)


@pytest.mark.parametrize(
    ("size", "side", "resized", "offset"),
    [
        ((150, 100), 64, (96, 64), (16, 0)),
        ((83, 131), 64, (64, 101), (0, 18)),  # 18.5 goes to the even neighbour
        ((64, 139), 64, (64, 139), (0, 38)),  # 37.5 too
        ((640, 480), 512, (682, 512), (85, 0)),
        ((512, 512), 512, (512, 512), (0, 0)),
    ],
)
def test_rounding_is_upstreams(size, side, resized, offset):
    layout = PictureLayout.centre_crop(size, side, 4)
    assert (layout.resized, layout.offset) == (resized, offset)


def test_a_picture_of_the_right_size_is_not_resampled():
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    for make in MAKERS:
        assert np.array_equal(np.asarray(make((64, 64), 64, 4).square(Image.fromarray(noise))), noise)


def test_pictures_that_would_be_resized_to_a_ribbon():
    with pytest.raises(PictureError, match=r"2000x1 pixels is too narrow.*crop it"):
        PictureLayout.centre_crop((2000, 1), 512, 32)
    assert PictureLayout.squash((2000, 1), 512, 32).length == 1024
