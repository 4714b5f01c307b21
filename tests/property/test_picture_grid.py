"""Laying image tokens on one grid over the picture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_core.errors import ConfigurationError
from dcam_core.inputs import ImageView, Inputs
from dcam_core.probing.picture_grid import PictureGrid, select_views


def _view(name, rows, cols, size, start=0, box=None):
    """A view whose tokens tile `box` (default: the whole picture) evenly."""
    x0, y0, x1, y1 = box or (0.0, 0.0, *map(float, size))
    x = torch.linspace(x0, x1, cols + 1, dtype=torch.float64)
    y = torch.linspace(y0, y1, rows + 1, dtype=torch.float64)
    sides = (x[:-1].expand(rows, -1), y[:-1, None].expand(-1, cols))
    sides += (x[1:].expand(rows, -1), y[1:, None].expand(-1, cols))
    return ImageView(name, start + torch.arange(rows * cols).view(rows, cols), torch.stack(sides, -1))


SIZES = st.tuples(st.integers(5, 300), st.integers(5, 300))
SIDES = st.integers(1, 9)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIDES, SIDES, SIDES, SIDES)
def test_constant_tokens_give_a_constant_map(size, rows, cols, fine_rows, fine_cols):
    views = [_view("base", rows, cols, size), _view("grid", fine_rows, fine_cols, size)]
    grid = PictureGrid.over(views, size)
    laid = grid.lay(torch.ones(2, len(grid.positions)))
    torch.testing.assert_close(laid, torch.ones(2, grid.rows, grid.cols), atol=1e-6, rtol=0)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIDES, SIDES)
def test_one_view_is_laid_as_it_is(size, rows, cols):
    grid = PictureGrid.over([_view("grid", rows, cols, size)], size)
    values = torch.rand(3, rows * cols)
    torch.testing.assert_close(grid.lay(values), values.view(3, rows, cols), atol=1e-5, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIDES, SIDES, st.data())
def test_evidence_stays_where_it_was(size, rows, cols, data):
    """A token lights up only the cells that its rectangle overlaps."""
    views = [_view("base", rows, cols, size), _view("grid", 8, 8, size, start=100)]
    grid = PictureGrid.over(views, size)
    token = data.draw(st.integers(0, rows * cols - 1))
    values = torch.zeros(1, len(grid.positions))
    values[0, token] = 1
    x0, y0, x1, y1 = views[0].rectangles.reshape(-1, 4)[token].tolist()
    lit = grid.lay(values)[0]
    for row, col in lit.nonzero().tolist():
        left, top = col * size[0] / grid.cols, row * size[1] / grid.rows
        right, bottom = left + size[0] / grid.cols, top + size[1] / grid.rows
        assert left < x1 + 1e-6
        assert right > x0 - 1e-6
        assert top < y1 + 1e-6
        assert bottom > y0 - 1e-6


def test_views_share_a_cell_by_what_they_cover():
    size = (4, 4)
    whole = _view("whole", 2, 2, size)
    left = _view("left", 2, 1, size, start=4, box=(0.0, 0.0, 2.0, 4.0))
    grid = PictureGrid.over([whole, left], size)
    values = torch.tensor([[1.0, 1, 1, 1, 3, 3]])
    assert grid.lay(values)[0].tolist() == [[2.0, 1.0], [2.0, 1.0]]


def test_what_no_token_covers_is_zero():
    size = (4, 4)
    grid = PictureGrid.over([_view("part", 2, 2, size, box=(0.0, 0.0, 2.0, 2.0))], size)
    assert grid.lay(torch.ones(1, 4))[0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_choosing_views():
    size = (8, 8)
    views = (_view("base", 1, 1, size), _view("grid", 2, 2, size, start=1))
    inputs = Inputs("", (size,), torch.zeros(1, 9, 2), views, (0, 5))
    assert select_views(inputs, None) == views
    assert [view.name for view in select_views(inputs, ["grid"])] == ["grid"]
    assert [view.name for view in select_views(inputs, ["finest"])] == ["grid"]
    alike = (_view("base", 2, 2, size), _view("grid", 2, 2, size, start=4))
    both = Inputs("", (size,), torch.zeros(1, 9, 2), alike, (0, 8))
    assert [view.name for view in select_views(both, ["finest"])] == ["grid"]
    only = Inputs("", (size,), torch.zeros(1, 9, 2), views[:1], (0, 5))
    assert [view.name for view in select_views(only, ["finest"])] == ["base"]
    with pytest.raises(
        ConfigurationError, match="'tiles' is not a view of this picture: there are base, grid"
    ):
        select_views(inputs, ["tiles"])
    with pytest.raises(ConfigurationError, match="views is empty"):
        select_views(inputs, [])
