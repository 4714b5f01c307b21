"""Registers DiffusionGemma. Light: nothing of the adapter is imported until a model is loaded."""

from __future__ import annotations

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_adapters"]


@hookimpl
def dcam_register_adapters(register: Register) -> None:
    """Offers the family "diffusion-gemma"."""
    register(
        "diffusion-gemma",
        "dcam_adapters.diffusion_gemma.adapter:DiffusionGemmaAdapter",
        architectures=["DiffusionGemmaForBlockDiffusion"],
        model_types=["diffusion_gemma"],
        tensors=[r"model\.decoder\.self_conditioning\..*"],
    )
