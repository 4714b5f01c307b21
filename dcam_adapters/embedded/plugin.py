"""Registers the checkpoints that ship with dcam. Light: names, folders, a few facts."""

from __future__ import annotations

from pathlib import Path

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_models"]

HERE = Path(__file__).parent
RECIPES = "dcam_adapters.embedded.training"

SHIPPED = {
    "llada-v": f"{RECIPES}.recipe:train_llada_v",
    "lavida": f"{RECIPES}.recipe:train_lavida",
    "mmada": f"{RECIPES}.mmada:train_mmada",
}
"""The families that have a tiny model, and what trains it."""


DEMO = "llada-v"
"""The family whose tiny model `dcam demo` shows when none is named."""


@hookimpl
def dcam_register_models(register: Register) -> None:
    """Offers "tiny-llada-v", "tiny-lavida" and "tiny-mmada"."""
    for family, recipe in SHIPPED.items():
        folder = HERE / f"tiny_{family.replace('-', '_')}"
        register(
            f"tiny-{family}",
            folder,
            adapter=family,
            demo=family == DEMO,
            demo_picture=folder / "demo.png",
            demo_prompt="describe the picture",
            recipe=recipe,
            dataset="scenes",
        )
