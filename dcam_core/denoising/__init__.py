"""The masked-diffusion sampler, written once for every family, and its recorded run."""

from dcam_core.denoising.decision import Decider, decision_logits
from dcam_core.denoising.sampler import DenoisingStep, denoise
from dcam_core.denoising.settings import SamplerSettings

__all__ = ["Decider", "DenoisingStep", "SamplerSettings", "decision_logits", "denoise"]
