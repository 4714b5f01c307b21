"""Attributions: raw evidence per image token, from activations and gradients or from the model itself."""

from dcam_plugins.attributions.attention_relevance import AttentionRelevance
from dcam_plugins.attributions.attention_rollout import AttentionRollout
from dcam_plugins.attributions.baselines import CentrePrior, RandomMap
from dcam_plugins.attributions.diffusion_cam_base import DiffusionCAMBase
from dcam_plugins.attributions.eigen_cam import EigenCAM
from dcam_plugins.attributions.element_wise_grad_cam import ElementWiseGradCAM
from dcam_plugins.attributions.grad_cam import GradCAM
from dcam_plugins.attributions.grad_cam_plus_plus import GradCAMPlusPlus
from dcam_plugins.attributions.grad_times_input import GradTimesInput
from dcam_plugins.attributions.hires_cam import HiResCAM
from dcam_plugins.attributions.input_gradient import InputGradient
from dcam_plugins.attributions.layer_cam import LayerCAM
from dcam_plugins.attributions.occlusion import Occlusion
from dcam_plugins.attributions.score_cam import ScoreCAM
from dcam_plugins.attributions.token_activation_map import TokenActivationMap, estimated_causal_inference
from dcam_plugins.attributions.xgrad_cam import XGradCAM

__all__ = [
    "AttentionRelevance",
    "AttentionRollout",
    "CentrePrior",
    "DiffusionCAMBase",
    "EigenCAM",
    "ElementWiseGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradTimesInput",
    "HiResCAM",
    "InputGradient",
    "LayerCAM",
    "Occlusion",
    "RandomMap",
    "ScoreCAM",
    "TokenActivationMap",
    "XGradCAM",
    "estimated_causal_inference",
]
