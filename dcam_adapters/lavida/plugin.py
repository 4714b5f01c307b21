"""Registers LaViDa. Light: nothing of the adapters is imported until a model is loaded."""

from __future__ import annotations

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_adapters"]


@hookimpl
def dcam_register_adapters(register: Register) -> None:
    """Offers the families "lavida" (LLaDA backbone) and "lavida-dream"."""
    register(
        "lavida",
        "dcam_adapters.lavida.adapter:LaViDaAdapter",
        architectures=["LlavaLladaForMaskedDiffusion"],
        model_types=["llava_llada"],
        tensors=[r"model\.transformer\.blocks\.\d+\..*", r"model\.vision_tower\..*"],
    )
    register(
        "lavida-dream",
        "dcam_adapters.lavida.adapter:LaViDaDreamAdapter",
        architectures=["LlavaDreamForMaskedDiffusion"],
        model_types=["llava_dream"],
        tensors=[r"model\.layers\.\d+\.self_attn\.q_proj\.bias", r"model\.vision_tower\..*"],
    )
