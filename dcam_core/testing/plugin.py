"""Plugin that offers the toy by name, for tries on the command line: `dcam -p dcam_core.testing.plugin explain ...`.

No entry point names it: it is there for whom asks for it.
"""

from __future__ import annotations

from pathlib import Path

from dcam_core.hookspecs import Register, hookimpl

__all__ = ["dcam_register_adapters", "dcam_register_models"]


@hookimpl
def dcam_register_adapters(register: Register) -> None:
    """Offer the family "toy"."""
    register("toy", "dcam_core.testing.toy:ToyAdapter", architectures=["ToyModel"], model_types=["toy"])


@hookimpl
def dcam_register_models(register: Register) -> None:
    """Offer the model "toy"."""
    register("toy", Path(__file__).with_name("toy_checkpoint"), adapter="toy")
