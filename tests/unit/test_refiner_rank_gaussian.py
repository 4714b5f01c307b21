import math

import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_plugins.refiners import RankGaussian, rank_gaussian_filter


def test_an_even_window_gives_its_median():
    maps = torch.linspace(0.50, 0.58, 9, dtype=torch.float64)[torch.randperm(9)].view(1, 3, 3)
    assert rank_gaussian_filter(maps, 3)[0, 1, 1] == maps.median()


def test_one_hot_pixel_becomes_a_faint_patch():
    # Window of eight zeros and a one: mean 1/9, std sqrt(8)/9, so sigma/mu = sqrt(8).
    maps = torch.zeros(1, 9, 9, dtype=torch.float64)
    maps[0, 4, 4] = 1
    weights = [math.exp(-(rank**2) / 16) for rank in range(-4, 5)]
    expected = torch.zeros(1, 9, 9, dtype=torch.float64)
    expected[0, 3:6, 3:6] = weights[-1] / sum(weights)
    torch.testing.assert_close(rank_gaussian_filter(maps, 3), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel_size", [1, 3, 7, 11])
def test_a_constant_map_stays_as_it_is(value, dtype, kernel_size):
    maps = torch.full((2, 4, 5), value, dtype=dtype)
    assert torch.equal(rank_gaussian_filter(maps, kernel_size), maps)


def test_half_precision_is_computed_in_float32():
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    expected = rank_gaussian_filter(maps.float(), 5).half()
    assert torch.equal(rank_gaussian_filter(maps, 5), expected)


def test_gradients_are_right_and_finite_where_windows_are_constant():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 3, 4, dtype=torch.float64, generator=generator).square().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rank_gaussian_filter(x, 3), maps)
    for value in (0.0, 0.5):
        flat = torch.full((1, 4, 4), value, requires_grad=True)
        rank_gaussian_filter(flat, 3).sum().backward()
        assert flat.grad.isfinite().all()


@pytest.mark.parametrize("kernel_size", [0, 2, -3])
def test_a_kernel_without_centre_is_refused(kernel_size):
    with pytest.raises(ConfigurationError, match=f"kernel_size is {kernel_size}.*odd number"):
        RankGaussian(kernel_size=kernel_size)
