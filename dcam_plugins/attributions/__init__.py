"""Attributions: from activations and gradients at the image tokens to raw evidence per token."""

from dcam_plugins.attributions.diffusion_cam_base import DiffusionCAMBase
from dcam_plugins.attributions.grad_cam import GradCAM
from dcam_plugins.attributions.grad_times_input import GradTimesInput
from dcam_plugins.attributions.hires_cam import HiResCAM
from dcam_plugins.attributions.layer_cam import LayerCAM

__all__ = ["DiffusionCAMBase", "GradCAM", "GradTimesInput", "HiResCAM", "LayerCAM"]
