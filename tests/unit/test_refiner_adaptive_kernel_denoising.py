import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import RefinerContext
from dcam_plugins.refiners import (
    AdaptiveKernelDenoising,
    adaptive_kernel_denoising,
    adaptive_kernel_size,
    rank_gaussian_filter,
)


@pytest.mark.parametrize(
    ("spread", "steps", "image_size", "expected"),
    [
        (0.0, 32, 384, 3),  # nothing to smooth: the smallest kernel
        (0.2, 16, 512, 3),  # all factors 1
        (0.3, 32, 384, 7),  # 3 * 2 * 1.5 * 0.75 = 6.75 -> 6 -> 7
        (0.4, 32, 384, 9),  # 3 * 2 * 2 * 0.75 = 9
        (0.5, 64, 384, 9),  # both factors at their cap of 2
        (0.5, 64, 1024, 11),  # 3 * 2 * 2 * 1.5 = 18 -> largest kernel
        (0.5, 2, 1024, 3),  # 3 * 0.125 * 2 * 1.5 = 1.1: two steps never get beyond 3
    ],
)
def test_kernel_size(spread, steps, image_size, expected):
    assert adaptive_kernel_size(torch.tensor([spread]), steps, image_size).tolist() == [expected]


def maps_of_different_spread():
    maps = torch.rand(5, 12, 12, generator=torch.Generator().manual_seed(0))
    return 0.5 + (maps.round() - 0.5) * torch.tensor([0.0, 0.2, 0.45, 0.7, 1.0])[:, None, None]


def test_each_map_is_filtered_with_its_own_kernel():
    maps = maps_of_different_spread()
    sizes = adaptive_kernel_size(maps.flatten(1).std(dim=1, correction=0), 32, 384).tolist()
    assert sizes == [3, 3, 5, 7, 9]
    expected = [rank_gaussian_filter(one[None], size)[0] for one, size in zip(maps, sizes, strict=True)]
    torch.testing.assert_close(adaptive_kernel_denoising(maps, 32, 384), torch.stack(expected))


def test_the_run_decides_unless_told_otherwise():
    maps = maps_of_different_spread()
    context = RefinerContext(raw=maps, denoising_steps=32, image_size=384, answer_ids=(1, 2))
    of_the_run = AdaptiveKernelDenoising()(maps, context)
    assert torch.equal(of_the_run, adaptive_kernel_denoising(maps, 32, 384))
    told = AdaptiveKernelDenoising(denoising_steps=2, image_size=24)(maps, context)
    assert torch.equal(told, rank_gaussian_filter(maps, 3))
    assert not torch.equal(told, of_the_run)


@pytest.mark.parametrize("name", ["denoising_steps", "image_size", "base_size"])
def test_parameters_must_be_positive(name):
    with pytest.raises(ConfigurationError, match=f"{name} is 0"):
        AdaptiveKernelDenoising(**{name: 0})
