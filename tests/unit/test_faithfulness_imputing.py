"""Imputation against a dense solve of the same equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcam_core.errors import UsageError
from dcam_core.faithfulness import impute


def dense(pixels, removed):
    """The equations written out: each removed pixel is the weighted mean of its neighbours in the picture."""
    channels, height, width = pixels.shape
    count = height * width
    matrix, right = torch.eye(count, dtype=torch.float64), pixels.flatten(1).double().clone()
    for row in range(height):
        for column in range(width):
            if not removed[row, column]:
                continue
            index = row * width + column
            around = {
                (row + dy) * width + column + dx: 1 / 6 if 0 in (dy, dx) else 1 / 12
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if (dy, dx) != (0, 0) and 0 <= row + dy < height and 0 <= column + dx < width
            }
            for other, weight in around.items():
                matrix[index, other] -= weight / sum(around.values())
            right[:, index] = 0
    return torch.linalg.solve(matrix, right.T).T.view(channels, height, width)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 13), st.integers(2, 12), st.sampled_from([0.05, 0.5, 0.95]), st.integers(0, 2**31))
@example(height=1, width=6, share=0.5, seed=0)
@example(height=1, width=22, share=0.95, seed=7)
def test_it_solves_the_equations(height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(3, height, width, generator=generator)
    removed = torch.rand(height, width, generator=generator) < share
    removed[-1, -1] = False
    found = impute(pixels, removed, noise=0, tolerance=1e-12)
    torch.testing.assert_close(found, dense(pixels, removed), atol=1e-8, rtol=0)


@pytest.mark.parametrize("side", [40, 230])
def test_the_default_is_exact_to_a_grey_level(side):
    pixels, removed = torch.rand(3, side, side + 10), torch.ones(side, side + 10, dtype=torch.bool)
    removed[10:14, 20:24] = removed[35:, :5] = removed[: side // 2, side // 2 :] = False
    exact = impute(pixels, removed, noise=0, tolerance=1e-12)
    assert (impute(pixels, removed, noise=0) - exact).abs().max() < 1 / 255


def test_a_ramp_goes_on_through_a_hole():
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64).expand(1, 7, 9)
    removed = torch.zeros(7, 9, dtype=torch.bool)
    removed[2:5, 3:6] = True
    torch.testing.assert_close(impute(ramp, removed, noise=0, tolerance=1e-12), ramp.contiguous())


def test_noise_is_on_what_was_removed_alone_and_follows_its_seed():
    state = torch.get_rng_state()
    pixels, removed = torch.full((3, 20, 20), 0.5, dtype=torch.float64), torch.zeros(20, 20, dtype=torch.bool)
    removed[:, :10] = True
    first, again, other = (impute(pixels, removed, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, ~removed], pixels[:, ~removed])
    assert float(first[:, removed].std()) == pytest.approx(0.01, rel=0.15)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_removed_is_nothing_changed_and_everything_is_refused():
    pixels = torch.rand(3, 5, 5, dtype=torch.float64)
    assert torch.equal(impute(pixels, torch.zeros(5, 5, dtype=torch.bool)), pixels)
    with pytest.raises(UsageError, match="every pixel is removed"):
        impute(pixels, torch.ones(5, 5, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"pixels are \[3, 5, 5\] and removed is \[5, 4\]"):
        impute(pixels, torch.zeros(5, 4, dtype=torch.bool))
