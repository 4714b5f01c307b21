"""Attributions: from activations and gradients at the image tokens to raw evidence per token."""

from dcam_plugins.attributions.diffusion_cam_base import DiffusionCAMBase
from dcam_plugins.attributions.eigen_cam import EigenCAM
from dcam_plugins.attributions.element_wise_grad_cam import ElementWiseGradCAM
from dcam_plugins.attributions.grad_cam import GradCAM
from dcam_plugins.attributions.grad_cam_plus_plus import GradCAMPlusPlus
from dcam_plugins.attributions.grad_times_input import GradTimesInput
from dcam_plugins.attributions.hires_cam import HiResCAM
from dcam_plugins.attributions.layer_cam import LayerCAM
from dcam_plugins.attributions.xgrad_cam import XGradCAM

__all__ = [
    "DiffusionCAMBase",
    "EigenCAM",
    "ElementWiseGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradTimesInput",
    "HiResCAM",
    "LayerCAM",
    "XGradCAM",
]
