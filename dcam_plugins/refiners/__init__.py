"""Refiners: the published refinement modules, and the small steps between them."""

from dcam_plugins.refiners.adaptive_kernel_denoising import (
    AdaptiveKernelDenoising,
    adaptive_kernel_denoising,
    adaptive_kernel_size,
)
from dcam_plugins.refiners.contextual_background_attenuation import (
    ContextualBackgroundAttenuation,
    background_threshold,
    contextual_background_attenuation,
)
from dcam_plugins.refiners.distribution_aware_confidence_gating import (
    DistributionAwareConfidenceGating,
    confidence_threshold,
    distribution_aware_confidence_gating,
)
from dcam_plugins.refiners.guided_upsampling import GuidedUpsampling, guided_upsampling
from dcam_plugins.refiners.min_max import MinMax, min_max
from dcam_plugins.refiners.rank_gaussian import RankGaussian, rank_gaussian_filter
from dcam_plugins.refiners.single_instance_causal_debiasing import (
    SingleInstanceCausalDebiasing,
    repeated_token_share,
    single_instance_causal_debiasing,
)

__all__ = [
    "AdaptiveKernelDenoising",
    "ContextualBackgroundAttenuation",
    "DistributionAwareConfidenceGating",
    "GuidedUpsampling",
    "MinMax",
    "RankGaussian",
    "SingleInstanceCausalDebiasing",
    "adaptive_kernel_denoising",
    "adaptive_kernel_size",
    "background_threshold",
    "confidence_threshold",
    "contextual_background_attenuation",
    "distribution_aware_confidence_gating",
    "guided_upsampling",
    "min_max",
    "rank_gaussian_filter",
    "repeated_token_share",
    "single_instance_causal_debiasing",
]
