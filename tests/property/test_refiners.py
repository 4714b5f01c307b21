"""What every refiner promises, for every registered refiner, on maps that nobody picked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dcam_plugins.plugin
from dcam_core.plugins.registry import import_object
from dcam_core.refiner import Refiner, RefinerContext

ATOL = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = list(ATOL)
AWKWARD_SHAPES = [(1, 1), (1, 7), (9, 1), (2, 3), (5, 4), (12, 13)]

few_examples = settings(max_examples=12, deadline=None)


def registered() -> dict[str, Refiner]:
    """All that keep the grid; those that make it finer have tests of their own, beside `dcam_core.testing`'s."""
    targets: dict[str, str] = {}
    dcam_plugins.plugin.dcam_register_refiners(targets.__setitem__)
    built: dict[str, Refiner] = {name: import_object(target)() for name, target in targets.items()}
    return {name: refiner for name, refiner in built.items() if not refiner.finer}


REFINERS = registered()

for_every_refiner = pytest.mark.parametrize("refiner", REFINERS.values(), ids=REFINERS)


def context(raw: Tensor) -> RefinerContext:
    return RefinerContext(
        raw=raw, denoising_steps=32, image_size=384, answer_ids=(4, 9, 4, 7), padding_ids=(1, 1)
    )


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """[B, H, W] min-max normalised maps: smooth to spiky, with zeros, ties and plateaus."""
    count = draw(st.integers(1, 4))
    height, width = draw(st.sampled_from(AWKWARD_SHAPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    maps = torch.rand(count, height, width, dtype=torch.float64, generator=generator)
    maps = maps ** draw(st.sampled_from([0.3, 1.0, 4.0, 30.0]))
    if draw(st.booleans()):
        maps = maps.round(decimals=1)
    if draw(st.booleans()):
        maps = maps.where(maps > maps.mean(), 0)
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-8)).to(draw(st.sampled_from(DTYPES)))


@for_every_refiner
@few_examples
@given(maps=batches())
def test_shape_range_dtype_and_inputs_are_kept(refiner: Refiner, maps: Tensor) -> None:
    raw, before = maps.clone(), maps.clone()
    refined = refiner(maps, context(raw))
    assert refined.shape == maps.shape
    assert refined.dtype == maps.dtype
    assert refined.device == maps.device
    assert refined.isfinite().all()
    assert refined.min() >= 0
    assert refined.max() <= 1
    assert torch.equal(maps, before)
    assert torch.equal(raw, before)
    assert torch.equal(refined, refiner(maps, context(raw)))


@for_every_refiner
@few_examples
@given(maps=batches(), data=st.data())
def test_maps_do_not_see_each_other(refiner: Refiner, maps: Tensor, data: st.DataObject) -> None:
    together = refiner(maps, context(maps))
    alone = torch.cat([refiner(one[None], context(one[None])) for one in maps])
    torch.testing.assert_close(together, alone, atol=ATOL[maps.dtype], rtol=0)

    order = torch.tensor(data.draw(st.permutations(range(len(maps)))))
    permuted = refiner(maps[order], context(maps[order]))
    torch.testing.assert_close(permuted, together[order], atol=ATOL[maps.dtype], rtol=0)


@for_every_refiner
@few_examples
@given(maps=batches())
def test_a_mirrored_map_is_refined_to_the_mirrored_result(refiner: Refiner, maps: Tensor) -> None:
    refined, mirrored = refiner(maps, context(maps)), maps.flip(2)
    # Sums over pixels run in another order: the last digits may differ.
    torch.testing.assert_close(
        refiner(mirrored, context(mirrored)), refined.flip(2), atol=10 * ATOL[maps.dtype], rtol=0
    )


@for_every_refiner
@pytest.mark.parametrize("shape", AWKWARD_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_stays_nothing(refiner: Refiner, shape: tuple[int, int], dtype: torch.dtype) -> None:
    nothing = torch.zeros(2, *shape, dtype=dtype)
    assert torch.equal(refiner(nothing, context(nothing)), nothing)


@for_every_refiner
@pytest.mark.parametrize("value", [0.3, 1.0])
def test_a_constant_map_stays_constant(refiner: Refiner, value: float) -> None:
    constant = torch.full((2, 5, 4), value)
    refined = refiner(constant, context(constant))
    assert (refined == refined[0, 0, 0]).all()
    assert abs(refined[0, 0, 0] - value) < 0.03  # only repeated tokens lower it, evenly


@for_every_refiner
def test_gradients_are_finite(refiner: Refiner) -> None:
    maps = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps[0, :3] = 0
    maps[1, :3] = 0.5
    maps.requires_grad_()
    refiner(maps, context(maps.detach())).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_no_random_state_is_touched() -> None:
    maps = torch.rand(2, 6, 5)
    before = torch.random.get_rng_state()
    for refiner in REFINERS.values():
        refiner(maps, context(maps))
    assert torch.equal(torch.random.get_rng_state(), before)


@for_every_refiner
def test_everything_is_made_on_the_device_of_the_maps(refiner: Refiner) -> None:
    maps = torch.rand(2, 6, 5)
    expected = refiner(maps, context(maps))
    with torch.device("meta"):  # what is made without saying where lands there, and cannot meet the maps
        assert torch.equal(refiner(maps, context(maps)), expected)
