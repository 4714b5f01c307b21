import numpy as np
import pytest
import torch

from dcam_plugins.refiners._windows import elementwise_sort, reflect_pad


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (3, 2), (6, 4)])
@pytest.mark.parametrize("margin", [0, 1, 2, 5, 9])
def test_padding_mirrors_as_numpy_does_however_far(shape, margin):
    maps = torch.rand(2, *shape)
    expected = np.pad(maps.numpy(), [(0, 0), (margin, margin), (margin, margin)], mode="reflect")
    assert np.array_equal(reflect_pad(maps, margin), expected)


@pytest.mark.parametrize("n", [*range(1, 18), 25, 49, 81, 121])
def test_sorting_network_sorts(n):
    values = torch.rand(n, 40, generator=torch.Generator().manual_seed(n))
    values[: n // 2] = values[: n // 2].round(decimals=1)  # with ties
    assert torch.equal(torch.stack(elementwise_sort(list(values))), values.sort(dim=0).values)


@pytest.mark.parametrize("n", range(1, 12))
def test_sorting_network_sorts_everything(n):
    # A network that sorts every sequence of zeros and ones sorts every sequence (Knuth, theorem 5.3.4 Z).
    numbers = torch.arange(2**n)
    bits = [(numbers >> place) & 1 for place in range(n)]
    ordered = torch.stack(elementwise_sort(bits))
    assert (ordered.diff(dim=0) >= 0).all()
    assert torch.equal(ordered.sum(dim=0), torch.stack(bits).sum(dim=0))
