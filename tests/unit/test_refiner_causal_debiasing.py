import pytest
import torch

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import RefinerContext
from dcam_plugins.refiners import (
    SingleInstanceCausalDebiasing,
    repeated_token_share,
    single_instance_causal_debiasing,
)

PEAK = (0, 1, 1)


def map_with_one_peak(background=0.2):
    maps = torch.full((1, 4, 4), background, dtype=torch.float64)
    maps[PEAK] = 1.0
    return maps


@pytest.mark.parametrize(
    ("ids", "share"),
    [((), 0), ((1, 2, 3), 0), ((5, 7, 5, 9), 1 / 4), ((1, 1, 2, 2), 2 / 4), ((5,) * 10, 1 / 10)],
)
def test_repeated_token_share_counts_kinds(ids, share):
    assert repeated_token_share(ids) == share


def test_peaks_and_repetition_are_subtracted_at_the_capped_scale():
    maps = map_with_one_peak()
    debiased = single_instance_causal_debiasing(maps, 0.25)
    expected = maps - 0.5 * 0.02 * 0.25  # everywhere
    expected[PEAK] -= 0.5 * 0.05  # and the peak
    torch.testing.assert_close(debiased, expected)


def test_below_the_cap_the_scale_is_the_least_squares_fit():
    maps = map_with_one_peak(background=0.0) * 0.01
    # Only the peak is in the pattern, of height 0.05: the fit explains the whole map with a scale of 0.2.
    debiased = single_instance_causal_debiasing(maps, 0.0, smallest_range=0)
    torch.testing.assert_close(debiased, torch.zeros_like(maps), atol=1e-15, rtol=0)


def test_a_map_that_would_lose_its_range_is_kept():
    maps = map_with_one_peak(background=0.0) * 0.01
    assert torch.equal(single_instance_causal_debiasing(maps, 0.0), maps)


def test_without_interference_nothing_changes():
    maps = torch.rand(2, 3, 3).clamp(0.4, 0.6)
    flat = maps > maps.mean(dim=(1, 2), keepdim=True) + 2 * maps.std(dim=(1, 2), keepdim=True, correction=0)
    assert not flat.any()
    assert torch.equal(single_instance_causal_debiasing(maps, 0.0), maps)


def context(answer_ids, padding_ids):
    return RefinerContext(
        raw=map_with_one_peak(),
        denoising_steps=8,
        image_size=96,
        answer_ids=answer_ids,
        padding_ids=padding_ids,
    )


def test_padding_counts_only_when_asked():
    maps = map_with_one_peak()
    unpadded, padded = context((4, 5, 6), ()), context((4, 5, 6), (1, 1, 1))
    published = SingleInstanceCausalDebiasing(peak_weight=0)
    assert torch.equal(published(maps, padded), maps)
    released = SingleInstanceCausalDebiasing(peak_weight=0, count_padding=True)
    torch.testing.assert_close(released(maps, padded), maps - 0.5 * 0.02 / 6)
    assert torch.equal(released(maps, unpadded), maps)


@pytest.mark.parametrize("name", ["repetition_weight", "peak_weight", "largest_scale", "smallest_range"])
def test_negative_parameters_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} is -0.1"):
        SingleInstanceCausalDebiasing(**{name: -0.1})


def test_a_map_cannot_be_asked_to_widen():
    with pytest.raises(ConfigurationError, match=r"smallest_range is 1\.5"):
        SingleInstanceCausalDebiasing(smallest_range=1.5)
