"""Registers LLaDA-V. Light: nothing of the adapter is imported until a model is loaded."""

from __future__ import annotations

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_adapters"]


@hookimpl
def dcam_register_adapters(register: Register) -> None:
    """Offers the family "llada-v"."""
    register(
        "llada-v",
        "dcam_adapters.llada_v.adapter:LLaDAVAdapter",
        architectures=["LlavaLLaDAModelLM"],
        model_types=["llava_llada"],
        tensors=[r"model\.layers\.\d+\.mlp\.gate_proj\.weight", r"model\.vision_tower\..*"],
    )
