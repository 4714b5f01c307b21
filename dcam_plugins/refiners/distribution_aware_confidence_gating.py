"""Distribution-Aware Confidence Gating (DACG): smooth what lies below a threshold that suits the map."""

from __future__ import annotations

import torch
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.refiner import Refiner, RefinerContext
from dcam_plugins._numerics import at_least_float32, percentile
from dcam_plugins.refiners._windows import reflect_pad

__all__ = [
    "DistributionAwareConfidenceGating",
    "confidence_threshold",
    "distribution_aware_confidence_gating",
]

_SMALLEST_THRESHOLD = 1e-6


def confidence_threshold(
    maps: Tensor,
    *,
    delta_sigma: float = 0.22,
    delta_mu: float = 0.35,
    delta_mu_prime: float = 0.25,
    alpha_high_spread: float = 90.0,
    alpha_high_mean: float = 75.0,
    alpha_low_mean: float = 80.0,
    alpha_otherwise: float = 85.0,
) -> Tensor:
    """The value above which a pixel is confident: a percentile of the map's positive pixels.

    Which percentile depends on the mean and the population standard deviation over all pixels; the first
    rule that fits decides:

        sigma > delta_sigma     alpha_high_spread
        mu > delta_mu           alpha_high_mean
        mu < delta_mu_prime     alpha_low_mean
        otherwise               alpha_otherwise

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype.
        delta_sigma: spread above which a map is of high spread.
        delta_mu: mean above which a map is bright.
        delta_mu_prime: mean below which a map is dark.
        alpha_high_spread: percentile of maps of high spread, 0 to 100.
        alpha_high_mean: percentile of bright maps.
        alpha_low_mean: percentile of dark maps.
        alpha_otherwise: percentile of the others.

    Returns:
        [B] at least 1e-6, which is the threshold of a map without positive pixels; float32, or float64
        for float64 maps.

    Source: paper, figure of DACG; specification of the method, section 4.
    """
    values = at_least_float32(maps).flatten(1)
    spread, mean = torch.std_mean(values, dim=1, correction=0)
    percent = torch.full_like(mean, alpha_otherwise)
    percent = percent.where(mean >= delta_mu_prime, alpha_low_mean)
    percent = percent.where(mean <= delta_mu, alpha_high_mean)
    percent = percent.where(spread <= delta_sigma, alpha_high_spread)
    ordered = values.sort(dim=1).values
    return percentile(ordered, (values > 0).sum(dim=1), percent).clamp_min(_SMALLEST_THRESHOLD)


def distribution_aware_confidence_gating(
    maps: Tensor, thresholds: Tensor, *, kernel_size: int = 3, sigma: float = 0.3
) -> Tensor:
    """Keep confident pixels as they are, and take the others from a Gaussian blur of the whole map.

    Args:
        maps: [B, H, W] in [0, 1], any floating dtype (half precision is blurred in float32).
        thresholds: [B], see `confidence_threshold`; a pixel is confident if it is larger.
        kernel_size: odd side of the Gaussian in grid cells.
        sigma: its standard deviation in grid cells.

    Returns:
        [B, H, W], same dtype. Borders are mirrored.
    """
    values = at_least_float32(maps)
    taps = get_gaussian_kernel1d(kernel_size, sigma, device=values.device, dtype=values.dtype)
    padded = reflect_pad(values, kernel_size // 2)
    blurred = filter2d_separable(padded.unsqueeze(1), taps, taps, padding="valid").squeeze(1)
    # A weighted mean lies within the map's range; round-off must not push it out.
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    blurred = blurred.clamp(low, high)
    return values.where(values > thresholds[:, None, None], blurred).to(maps.dtype)


class DistributionAwareConfidenceGating(Refiner):
    """`distribution_aware_confidence_gating` at each map's own `confidence_threshold`.

    The blur is the one of the paper, 3 x 3 with sigma 0.3, in two dimensions. It is light: the outer taps
    weigh 0.4 % each. The released code gathers the pixels below the threshold into one column and blurs
    across it, which changes nothing at all: give `kernel_size=1` to get its numbers.

    Args:
        kernel_size: odd side of the Gaussian in grid cells.
        sigma: its standard deviation in grid cells.
        delta_sigma: spread above which a map is of high spread.
        delta_mu: mean above which a map is bright.
        delta_mu_prime: mean below which a map is dark.
        alpha_high_spread: percentile of maps of high spread, 0 to 100.
        alpha_high_mean: percentile of bright maps.
        alpha_low_mean: percentile of dark maps.
        alpha_otherwise: percentile of the others.

    Raises:
        ConfigurationError: if the kernel is not odd, sigma not positive, or a percentile not in 0 ... 100.

    Source: paper, module DACG; specification of the method, section 4 (defect D15).
    """

    def __init__(
        self,
        *,
        kernel_size: int = 3,
        sigma: float = 0.3,
        delta_sigma: float = 0.22,
        delta_mu: float = 0.35,
        delta_mu_prime: float = 0.25,
        alpha_high_spread: float = 90.0,
        alpha_high_mean: float = 75.0,
        alpha_low_mean: float = 80.0,
        alpha_otherwise: float = 85.0,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigurationError(
                f"distribution-aware-confidence-gating: kernel_size is {kernel_size}, but a kernel needs a "
                "centre: give an odd number from 1 up"
            )
        if sigma <= 0:
            raise ConfigurationError(
                f"distribution-aware-confidence-gating: sigma is {sigma}: give a number of grid cells above 0"
            )
        percentiles = {
            "alpha_high_spread": alpha_high_spread,
            "alpha_high_mean": alpha_high_mean,
            "alpha_low_mean": alpha_low_mean,
            "alpha_otherwise": alpha_otherwise,
        }
        for name, value in percentiles.items():
            if not 0 <= value <= 100:
                raise ConfigurationError(
                    f"distribution-aware-confidence-gating: {name} is {value}: give a percentile, 0 to 100"
                )
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.limits = {
            "delta_sigma": delta_sigma,
            "delta_mu": delta_mu,
            "delta_mu_prime": delta_mu_prime,
            **percentiles,
        }

    def forward(self, maps: Tensor, context: RefinerContext) -> Tensor:
        """Refine; shapes and values as in `Refiner.forward`. The context is not used."""
        thresholds = confidence_threshold(maps, **self.limits)
        return distribution_aware_confidence_gating(
            maps, thresholds, kernel_size=self.kernel_size, sigma=self.sigma
        )
