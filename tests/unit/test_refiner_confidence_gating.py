import math

import numpy as np
import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_plugins.refiners import (
    DistributionAwareConfidenceGating,
    confidence_threshold,
    distribution_aware_confidence_gating,
)


def map_with(mean, spread):
    """Normally distributed values, moved to have exactly this mean and spread."""
    values = torch.randn(1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = (values - values.mean()) / values.std(correction=0)
    return values * spread + mean


@pytest.mark.parametrize(
    ("mean", "spread", "percent"),
    [
        (0.3, 0.1, 85),
        (0.2, 0.1, 80),
        (0.4, 0.1, 75),
        (0.4, 0.23, 90),  # spread is asked first
        (0.2, 0.23, 90),
    ],
)
def test_threshold_is_a_percentile_of_positive_pixels_by_the_maps_distribution(mean, spread, percent):
    maps = map_with(mean, spread)
    expected = np.percentile(maps[maps > 0].numpy(), percent)
    assert confidence_threshold(maps).item() == pytest.approx(expected, abs=1e-12)


def test_threshold_of_a_map_without_positive_pixels():
    assert confidence_threshold(torch.zeros(1, 3, 3)).item() == pytest.approx(1e-6)


def test_pixels_above_the_threshold_are_kept_and_the_others_blurred_in_two_dimensions():
    maps = torch.zeros(1, 5, 5, dtype=torch.float64)
    maps[0, 2, 2] = 1
    outer = math.exp(-1 / (2 * 0.3**2))
    tap, centre = outer / (1 + 2 * outer), 1 / (1 + 2 * outer)
    assert tap == pytest.approx(0.003836, abs=1e-6)
    gated = distribution_aware_confidence_gating(maps, torch.tensor([0.5], dtype=torch.float64))
    kernel = torch.tensor([tap, centre, tap], dtype=torch.float64)
    neighbourhood = torch.outer(kernel, kernel)
    neighbourhood[1, 1] = 1
    torch.testing.assert_close(gated[0, 1:4, 1:4], neighbourhood, atol=1e-12, rtol=0)
    assert gated.sum() == pytest.approx(neighbourhood.sum().item())


def test_a_pixel_at_the_threshold_is_not_above_it():
    maps = torch.zeros(1, 5, 5)
    maps[0, 2, 2] = 0.5
    gated = distribution_aware_confidence_gating(maps, torch.tensor([0.5]))
    assert gated[0, 2, 2] == pytest.approx(0.5 * 0.992327**2, abs=1e-5)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_map_stays_as_it_is(value, dtype):
    maps = torch.full((1, 6, 1), value, dtype=dtype)
    assert torch.equal(DistributionAwareConfidenceGating()(maps, None), maps)


def test_kernel_of_one_is_the_released_identity():
    maps = torch.rand(3, 7, 5)
    assert torch.equal(DistributionAwareConfidenceGating(kernel_size=1)(maps, None), maps)
    assert not torch.equal(DistributionAwareConfidenceGating()(maps, None), maps)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"alpha_low_mean": 101}, "alpha_low_mean is 101"),
        ({"alpha_otherwise": -1}, "alpha_otherwise is -1"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        DistributionAwareConfidenceGating(**parameters)
