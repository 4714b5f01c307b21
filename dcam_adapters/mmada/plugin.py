"""Registers MMaDA. Light: nothing of the adapter is imported until a model is loaded."""

from __future__ import annotations

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_adapters"]


@hookimpl
def dcam_register_adapters(register: Register) -> None:
    """Offers the family "mmada"."""
    register(
        "mmada",
        "dcam_adapters.mmada.adapter:MMaDAAdapter",
        # The second of each is LLaDA's own name, which a copy of the model may carry: the tensors are the same.
        architectures=["MMadaModelLM", "LLaDAModelLM"],
        model_types=["mmada", "llada"],
        tensors=[r"model\.transformer\.blocks\.\d+\..*"],
    )
