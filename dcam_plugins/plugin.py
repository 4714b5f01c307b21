"""The plugin that offers dcam's own methods, by import string: nothing is imported until it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dcam_core.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.targets import Target

__all__ = [
    "dcam_gradient_target",
    "dcam_register_attributions",
    "dcam_register_datasets",
    "dcam_register_methods",
    "dcam_register_metrics",
    "dcam_register_papers",
    "dcam_register_refiners",
]

_ATTRIBUTIONS = {
    "attention-relevance": "AttentionRelevance",
    "attention-rollout": "AttentionRollout",
    "centre-prior": "CentrePrior",
    "diffusion-cam-base": "DiffusionCAMBase",
    "eigen-cam": "EigenCAM",
    "element-wise-grad-cam": "ElementWiseGradCAM",
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "grad-times-input": "GradTimesInput",
    "hires-cam": "HiResCAM",
    "input-gradient": "InputGradient",
    "layer-cam": "LayerCAM",
    "occlusion": "Occlusion",
    "random-map": "RandomMap",
    "score-cam": "ScoreCAM",
    "tam": "TokenActivationMap",
    "xgrad-cam": "XGradCAM",
}

_REFINERS = {
    "adaptive-kernel-denoising": "AdaptiveKernelDenoising",
    "contextual-background-attenuation": "ContextualBackgroundAttenuation",
    "distribution-aware-confidence-gating": "DistributionAwareConfidenceGating",
    "guided-upsampling": "GuidedUpsampling",
    "min-max": "MinMax",
    "rank-gaussian": "RankGaussian",
    "single-instance-causal-debiasing": "SingleInstanceCausalDebiasing",
}

_METRICS = {
    "average-precision": "AveragePrecision",
    "concentration": "EnergyPointingGame",
    "contrast-ratio": "ContrastRatio",
    "contrast-score": "ContrastScore",
    "energy-lift": "EnergyLift",
    "energy-pointing-game": "EnergyPointingGame",
    "f1": "F1",
    "func-iou": "FuncIoU",
    "iou": "IntersectionOverUnion",
    "mean-f3": "MeanF3",
    "miou": "MeanIoU",
    "obj-iou": "IntersectionOverUnion",
    "pointing-game": "PointingGame",
    "precision": "Precision",
    "recall": "Recall",
}

_BASELINES = ("random-map", "centre-prior")
"""Methods that know nothing of the model."""

_COLUMNS = {
    "contrast-score": [""],
    "energy-pointing-game": [""],
    "mean-f3": [""],
    "obj-iou": [""],
    "pointing-game": ["", "tolerance=half-cell"],
}
"""What a comparison of methods shows unless other metrics are asked for."""

_SCENES = {
    "scenes": "Scenes",
    "scenes-absent": "AbsentScenes",
    "scenes-clutter": "ClutteredScenes",
    "scenes-occlusion": "OccludedScenes",
    "scenes-small": "SmallScenes",
    "scenes-twins": "TwinScenes",
}

_DATASETS = {
    "captioned": "Captions",
    "coco": "CocoFolder",
    "coco-caption": "CocoCaption",
    "coco-caption-labels": "CocoCaptionLabels",
    "grandf": "GranDf",
    "grandf-labels": "GranDfLabels",
    "openpsg": "OpenPSG",
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
        register(preset.stem, preset, baseline=preset.stem in _BASELINES)


@hookimpl
def dcam_register_metrics(register: Register) -> None:
    """Offer the metrics."""
    for name, attribute in _METRICS.items():
        register(name, f"dcam_plugins.metrics:{attribute}", columns=_COLUMNS.get(name, []))


@hookimpl
def dcam_register_datasets(register: Register) -> None:
    """Offer the generated scenes and the datasets that are read from a folder."""
    for name, attribute in _SCENES.items():
        register(name, f"dcam_plugins.scenes:{attribute}")
    for name, attribute in _DATASETS.items():
        register(name, f"dcam_plugins.datasets:{attribute}")


@hookimpl
def dcam_register_papers(register: Register) -> None:
    """Offer the tables of every paper in `papers/` under the name of its file."""
    for paper in sorted(Path(__file__).with_name("papers").glob("*.yaml")):
        register(paper.stem, paper)


@hookimpl
def dcam_gradient_target(name: str, target: Target, trajectory: Trajectory) -> GradientTarget | None:
    """The gradient target "answer": all tokens of the answer together."""
    if name != "answer":
        return None
    from dcam_plugins.deciding import whole_answer

    return whole_answer(target, trajectory)
