import numpy as np
import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_plugins.refiners import (
    ContextualBackgroundAttenuation,
    background_threshold,
    contextual_background_attenuation,
)


def test_the_papers_worked_example():
    maps = torch.tensor([[[0.3, 0.1], [0.2, 0.7]]], dtype=torch.float64)
    factors = torch.tensor([[[0.75, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    attenuated = contextual_background_attenuation(maps, torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(attenuated, maps * factors)


def test_threshold_formula():
    maps = torch.rand(1, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3
    values = maps.clamp_min(0)
    positive = values[values > 0].numpy()
    expected = (
        0.15 * np.percentile(positive, 50)
        + 0.15 * np.percentile(values.numpy(), 60)
        + 0.20 * positive.mean()
        + 0.015 * positive.max()
    )
    assert background_threshold(values).item() == pytest.approx(expected, abs=1e-12)


def test_threshold_of_a_map_without_positive_pixels():
    assert background_threshold(torch.zeros(1, 3, 3)).item() == pytest.approx(1e-6)


def test_attenuation_is_continuous_and_increasing():
    ramp = torch.linspace(0, 1, 2001, dtype=torch.float64).view(1, 1, -1)
    attenuated = contextual_background_attenuation(ramp, torch.tensor([0.4], dtype=torch.float64)).flatten()
    steps = attenuated.diff()
    assert (steps > 0).all()
    assert steps.max() < 2.1 * ramp.flatten().diff().max()  # slope at most 2, just below the threshold


def test_floor_zero_removes_the_darkest():
    maps = torch.tensor([[[0.0, 0.001, 0.4, 0.8]]])
    kept_half = ContextualBackgroundAttenuation()(maps, None)
    kept_less = ContextualBackgroundAttenuation(floor=0.0)(maps, None)
    assert kept_half[0, 0, 1] == pytest.approx(0.0005)
    assert kept_less[0, 0, 1] < 0.0001
    assert torch.equal(ContextualBackgroundAttenuation(floor=1.0)(maps, None), maps)


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(ConfigurationError, match=f"floor is {floor}"):
        ContextualBackgroundAttenuation(floor=floor)
