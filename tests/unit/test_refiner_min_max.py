import torch

from dcam_plugins.refiners import min_max


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_close(found, expected):
    torch.testing.assert_close(found, double(expected), atol=1e-7, rtol=0)


def test_stretches_to_zero_and_one():
    maps = double([[[0.2, 0.3, 0.6]]])
    assert_close(min_max(maps, torch.ones_like(maps)), [[[0, 0.25, 1]]])


def test_no_pixel_rises_above_the_raw_maximum_of_its_own_map():
    maps = double([[[0.0, 0.5, 0.9]], [[0.0, 0.5, 0.9]]])
    raw = double([[[0.0, 0.5, 0.1]], [[0.0, 1.0, 0.1]]])
    clipped, untouched = min_max(maps, raw)
    assert_close(clipped, [[0, 1, 1]])
    assert_close(untouched, [[0, 5 / 9, 1]])


def test_a_constant_map_is_left_as_it_is():
    maps = torch.full((1, 2, 2), 0.3)
    assert torch.equal(min_max(maps, maps), maps)
