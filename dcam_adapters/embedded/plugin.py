"""Registers the checkpoints that ship with dcam. Light: a name, a folder, a few facts."""

from __future__ import annotations

from pathlib import Path

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_models"]

TINY_LLADA_V = Path(__file__).parent / "tiny_llada_v"


@hookimpl
def dcam_register_models(register: Register) -> None:
    """Offers "tiny-llada-v"."""
    register(
        "tiny-llada-v",
        TINY_LLADA_V,
        adapter="llada-v",
        demo_picture=TINY_LLADA_V / "demo.png",
        demo_prompt="describe the picture",
        recipe="dcam_adapters.embedded.training.recipe:train_llada_v",
        dataset="scenes",
    )
