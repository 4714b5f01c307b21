import torch

from dcam_plugins.refiners import min_max


def test_stretches_to_zero_and_one():
    maps = torch.tensor([[[0.2, 0.3, 0.6]]], dtype=torch.float64)
    stretched = min_max(maps, torch.ones_like(maps))
    torch.testing.assert_close(
        stretched, torch.tensor([[[0, 0.25, 1]]], dtype=torch.float64), atol=1e-7, rtol=0
    )


def test_no_pixel_rises_above_the_raw_maximum_of_its_own_map():
    maps = torch.tensor([[[0.0, 0.5, 0.9]], [[0.0, 0.5, 0.9]]], dtype=torch.float64)
    raw = torch.tensor([[[0.0, 0.5, 0.1]], [[0.0, 1.0, 0.1]]], dtype=torch.float64)
    clipped, untouched = min_max(maps, raw)
    torch.testing.assert_close(clipped, torch.tensor([[0, 1, 1]], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(
        untouched, torch.tensor([[0, 5 / 9, 1]], dtype=torch.float64), atol=1e-7, rtol=0
    )


def test_a_constant_map_is_left_as_it_is():
    maps = torch.full((1, 2, 2), 0.3)
    assert torch.equal(min_max(maps, maps), maps)
