"""Guided upsampling: maps end where the picture's colours change, and stay where they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_core import Explainer, load_explanation, load_model
from dcam_core.errors import ConfigurationError
from dcam_core.refiner import RefinerContext
from dcam_plugins.metrics import intersection_over_union
from dcam_plugins.refiners import GuidedUpsampling, guided_upsampling
from dcam_plugins.scenes import Scenes


def disc(size: int, x: float, y: float, radius: float) -> torch.Tensor:
    """[size, size] bool."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


@pytest.fixture
def painted():
    """A red disc on grey, its mask, and the disc as a token grid of 8 x 8 sees it."""
    mask = disc(96, 40, 52, 17)
    picture = torch.where(mask, torch.tensor([0.9, 0.1, 0.1])[:, None, None], torch.tensor(0.5))
    seen = torch.nn.functional.adaptive_avg_pool2d(mask[None].float(), (8, 8))
    return picture, mask, seen


def stretched(maps: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(maps[:, None], (96, 96), mode="bilinear", align_corners=False)[
        :, 0
    ]


def test_a_coarse_map_gets_the_outline_of_what_it_lies_on(painted):
    picture, mask, seen = painted
    fine = guided_upsampling(seen, picture, cells=3, pixels=16, epsilon=1e-3)
    assert fine.shape == (1, 96, 96)
    before, after = (intersection_over_union(maps, mask[None]).item() for maps in (stretched(seen), fine))
    assert before < 0.85
    assert after > 0.98


def test_it_does_not_move_a_map_to_another_object_of_the_same_colour(painted):
    picture, mask, seen = painted
    other = disc(96, 82, 14, 10)
    twice = torch.where(other, torch.tensor([0.9, 0.1, 0.1])[:, None, None], picture)
    fine = guided_upsampling(seen, twice, cells=3, pixels=16, epsilon=1e-3)[0]
    assert fine[other].max() < 0.1 < 0.6 < fine[mask].mean()


def test_a_picture_without_edges_leaves_a_smooth_map(painted):
    _, _, seen = painted
    fine = guided_upsampling(seen, torch.full((3, 96, 96), 0.4), cells=1, pixels=16, epsilon=1e-3)
    assert (fine - stretched(seen)).abs().max() < 0.35
    assert (fine.flatten().argmax() == stretched(seen).flatten().argmax()) or fine.max() > 0.5


@pytest.mark.parametrize(
    ("grid", "size", "expected"),
    [
        ((8, 8), (96, 96), (96, 96)),  # the picture is smaller than 16 pixels a cell
        ((6, 9), (1000, 2000), (96, 144)),
        ((24, 24), (20, 20), (24, 24)),  # never coarser than it was
        ((1, 1), (5, 3), (5, 3)),
    ],
)
def test_the_grid_of_the_refined_maps(grid, size, expected):
    fine = guided_upsampling(torch.rand(2, *grid), torch.rand(3, *size), cells=2, pixels=16, epsilon=1e-3)
    assert fine.shape == (2, *expected)
    assert fine.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(
    value=st.floats(0, 1, width=32),
    cells=st.floats(0.5, 6),
    seed=st.integers(0, 1000),
)
def test_a_map_that_is_the_same_everywhere_stays_the_same(value, cells, seed):
    picture = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(seed))
    fine = guided_upsampling(torch.full((1, 5, 4), value), picture, cells, 8, 1e-3)
    assert (fine - value).abs().max() < 1e-3  # of float32's rounding in the windows' sums


def test_parameters_and_a_missing_picture_are_refused_with_the_remedy():
    for wrong in ({"cells": 0}, {"pixels": 0}, {"epsilon": 0}):
        with pytest.raises(ConfigurationError, match="give cells and epsilon above 0"):
            GuidedUpsampling(**wrong)
    maps = torch.rand(1, 4, 4)
    context = RefinerContext(raw=maps, denoising_steps=4, image_size=64, answer_ids=(1,))
    with pytest.raises(ConfigurationError, match="needs the picture"):
        GuidedUpsampling()(maps, context)


def test_our_own_method_gives_maps_as_fine_as_the_picture_and_keeps_them(tmp_path):
    scene = Scenes("test", 5)[4]
    model = load_model("tiny-llada-v")
    made = Explainer(model, "dcam").explain(scene.image, "describe the picture", ["heart"], baselines=())
    assert made.raw.shape == (1, 12, 12)
    assert made.maps.shape == (1, 96, 96)
    (heart,) = (thing for thing in scene.objects if thing.shape == "heart")
    assert intersection_over_union(made.maps, heart.mask[None]).item() > 0.8
    made.save(tmp_path / "saved")
    again = load_explanation(tmp_path / "saved")
    assert torch.equal(again.maps, made.maps)
    assert torch.equal(again.raw, made.raw)
    assert torch.equal(again.heatmap(0), made.heatmap(0))
