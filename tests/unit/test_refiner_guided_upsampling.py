"""Guided upsampling: maps end where the picture's colours change, and stay where they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_core import Explainer, load_explanation, load_model
from dcam_core.errors import ConfigurationError
from dcam_core.refiner import RefinerContext
from dcam_plugins.metrics import found_pixels, intersection_over_union
from dcam_plugins.refiners import GuidedUpsampling, guided_upsampling
from dcam_plugins.refiners.guided_upsampling import outlined
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


# -- the outline, and the rest ---------------------------------------------------------------------------------


@pytest.fixture
def surrounded(painted):
    """The painted disc, its mask, and a coarse map of it with weaker evidence, all of it different, around it."""
    picture, mask, seen = painted
    around = torch.linspace(0.05, 0.3, 64)[torch.randperm(64)].view(1, 8, 8)
    return picture, mask, torch.maximum(seen, around)


def cells_without_outline(clear: torch.Tensor) -> torch.Tensor:
    """[8, 8] bool: the cells of 12 x 12 pixels that no clear pixel lies in."""
    return torch.nn.functional.max_pool2d(clear[None].float(), 12)[0] == 0


def test_inside_the_outline_stands_the_fine_map_and_outside_the_coarse_one(surrounded):
    picture, mask, coarse = surrounded
    fine = guided_upsampling(coarse, picture, cells=3, pixels=16, epsilon=1e-3)
    clear = found_pixels(fine / fine.amax())[0]
    whole = outlined(fine, coarse, rest=0.25)
    assert whole[0][clear].min() >= 0.5 > 0.25 >= whole[0][~clear].max()
    free = cells_without_outline(clear)
    kept = torch.nn.functional.avg_pool2d(whole, 12)[0]
    assert 40 < free.sum() < 64
    assert torch.equal(kept[free].argsort(), coarse[0][free].argsort())
    assert torch.allclose(kept[free], 0.25 * coarse[0][free])
    before, after = (intersection_over_union(maps, mask[None]).item() for maps in (fine / fine.amax(), whole))
    assert after == before > 0.98


def test_a_map_that_the_windows_wear_down_does_not_sink_below_its_rest():
    coarse = torch.full((1, 8, 8), 0.1)
    coarse[0, 2, 2], coarse[0, 6, 6] = (
        1,
        0.9,
    )  # one cell each: little is left of them in a window of 4 x 4 cells
    fine = guided_upsampling(coarse, torch.full((3, 96, 96), 0.4), cells=4, pixels=16, epsilon=1e-3)
    assert fine.max() < 0.25
    whole, clear = outlined(fine, coarse, rest=0.25), found_pixels(fine / fine.amax())
    assert whole[~clear].max() <= 0.25 < 0.5 <= whole[clear].min()
    assert whole.max() == pytest.approx(1)


def test_a_faint_map_stays_faint_and_an_empty_one_empty(surrounded):
    picture, _, coarse = surrounded
    whole, faint, empty = GuidedUpsampling(rest=0.25)(
        torch.cat([coarse, 0.05 * coarse, 0 * coarse]),
        RefinerContext(raw=coarse, denoising_steps=4, image_size=64, answer_ids=(1,), picture=picture),
    )
    assert torch.allclose(faint, 0.05 * whole, atol=1e-5)
    assert empty.eq(0).all()


def in_windows(values: torch.Tensor, reach: int) -> torch.Tensor:
    """[C, H, W] -> [H, W, C, pixels of a window], mirrored at the border."""
    mirrored = torch.nn.functional.pad(values[None], (reach,) * 4, mode="reflect")[0]
    side = 2 * reach + 1
    return mirrored.unfold(1, side, 1).unfold(2, side, 1).flatten(3).permute(1, 2, 0, 3)


@settings(max_examples=25, deadline=None)
@given(reach=st.integers(1, 4), count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_every_map_is_fitted_in_every_window_as_the_paper_writes_it(reach, count, seed):
    random = torch.Generator().manual_seed(seed)
    picture = torch.rand(3, 6, 7, generator=random, dtype=torch.float64)
    maps = torch.rand(count, 6, 7, generator=random, dtype=torch.float64)
    found = guided_upsampling(maps, picture, cells=2 * reach, pixels=1, epsilon=1e-2)
    colours = in_windows(picture, reach)
    middle = colours.mean(-1, keepdim=True)
    spread = (colours - middle) @ (colours - middle).mT / colours.shape[-1] + 1e-2 * torch.eye(3)
    for map_, fine in zip(maps, found, strict=True):
        seen = in_windows(map_[None], reach)
        together = (colours - middle) @ (seen - seen.mean(-1, keepdim=True)).mT / colours.shape[-1]
        slope = torch.linalg.solve(spread, together)
        offset = seen.mean(-1, keepdim=True) - slope.mT @ middle
        # Equation 8 of the paper: what a pixel gets is the mean over the windows that it lies in.
        lines = torch.cat([slope, offset], dim=2).squeeze(-1).permute(2, 0, 1)
        mean = in_windows(lines, reach).mean(-1).permute(2, 0, 1)
        expected = (mean[:3] * picture).sum(0) + mean[3]
        torch.testing.assert_close(fine, expected.clamp(0, 1))


@settings(max_examples=25, deadline=None)
@given(rest=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_maps_with_a_rest_are_in_range_and_the_same_alone_as_together(rest, seed):
    random = torch.Generator().manual_seed(seed)
    coarse, picture = torch.rand(3, 5, 4, generator=random), torch.rand(3, 30, 40, generator=random)
    fine = guided_upsampling(coarse, picture, 2, 8, 1e-3)
    together = outlined(fine, coarse, rest)
    assert 0 <= together.min() <= together.max() <= 1
    assert torch.allclose(together.amax((1, 2)), coarse.amax((1, 2)))
    for index in range(3):
        alone = guided_upsampling(coarse[[index]], picture, 2, 8, 1e-3)[0]
        torch.testing.assert_close(alone, fine[index], atol=1e-5, rtol=0)
        assert torch.equal(outlined(fine[[index]], coarse[[index]], rest)[0], together[index])
    assert outlined(fine[:0], coarse[:0], rest).shape == (0, 30, 32)


@pytest.mark.parametrize("rest", [-0.1, 0.6, float("nan")])
def test_a_rest_that_is_no_share_is_refused(rest):
    with pytest.raises(ConfigurationError, match=r"share of the range .* 0 to 0\.5, or null"):
        GuidedUpsampling(rest=rest)


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
