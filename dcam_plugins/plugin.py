"""The plugin that offers dcam's own methods, by import string: nothing is imported until it is used."""

from __future__ import annotations

from pathlib import Path

from dcam_core.hookspecs import Register, hookimpl

__all__ = [
    "dcam_register_attributions",
    "dcam_register_datasets",
    "dcam_register_methods",
    "dcam_register_metrics",
    "dcam_register_refiners",
]

_ATTRIBUTIONS = {
    "diffusion-cam-base": "DiffusionCAMBase",
    "eigen-cam": "EigenCAM",
    "element-wise-grad-cam": "ElementWiseGradCAM",
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "grad-times-input": "GradTimesInput",
    "hires-cam": "HiResCAM",
    "layer-cam": "LayerCAM",
    "xgrad-cam": "XGradCAM",
}

_REFINERS = {
    "adaptive-kernel-denoising": "AdaptiveKernelDenoising",
    "contextual-background-attenuation": "ContextualBackgroundAttenuation",
    "distribution-aware-confidence-gating": "DistributionAwareConfidenceGating",
    "min-max": "MinMax",
    "rank-gaussian": "RankGaussian",
    "single-instance-causal-debiasing": "SingleInstanceCausalDebiasing",
}

_METRICS = {
    "energy-pointing-game": "EnergyPointingGame",
    "iou": "IntersectionOverUnion",
    "pointing-game": "PointingGame",
}


@hookimpl
def dcam_register_attributions(register: Register) -> None:
    """Offer the attributions."""
    for name, attribute in _ATTRIBUTIONS.items():
        register(name, f"dcam_plugins.attributions:{attribute}")


@hookimpl
def dcam_register_refiners(register: Register) -> None:
    """Offer the refiners."""
    for name, attribute in _REFINERS.items():
        register(name, f"dcam_plugins.refiners:{attribute}")


@hookimpl
def dcam_register_methods(register: Register) -> None:
    """Offer every preset in `methods/` under the name of its file."""
    for preset in sorted(Path(__file__).with_name("methods").glob("*.yaml")):
        register(preset.stem, preset)


@hookimpl
def dcam_register_metrics(register: Register) -> None:
    """Offer the metrics."""
    for name, attribute in _METRICS.items():
        register(name, f"dcam_plugins.metrics:{attribute}")


@hookimpl
def dcam_register_datasets(register: Register) -> None:
    """Offer the generated scenes."""
    register("scenes", "dcam_plugins.scenes:Scenes")
