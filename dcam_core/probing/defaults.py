"""The core's own answers to the deciding hooks: asked last, so that anybody can answer before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcam_core.hookspecs import hookimpl
from dcam_core.probing.gradient_targets import GRADIENT_TARGETS
from dcam_core.probing.mask_steps import MASK_STEPS

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter, Layer

__all__ = ["CORE_DEFAULTS", "NamedProbeLayer", "PublishedProbeLayer"]


@dataclass(frozen=True)
class NamedProbeLayer:
    """The layer that a method names: stronger than installed plugins, weaker than what the user passes."""

    layer: Layer | Sequence[Layer]

    @hookimpl
    def dcam_probe_layer(self) -> Layer | Sequence[Layer]:
        """That layer."""
        return self.layer


class PublishedProbeLayer:
    """The depth that Diffusion-CAM probes: block 10 of 32, counted from 0 (method spec, section 1)."""

    depth = 10 / 31

    @hookimpl(trylast=True)
    def dcam_probe_layer(self, adapter: Adapter, method: Mapping[str, Any]) -> float:
        """The same fraction of this model's depth."""
        return self.depth


CORE_DEFAULTS: tuple[object, ...] = (PublishedProbeLayer(), *MASK_STEPS, *GRADIENT_TARGETS)
"""Everything that the core itself answers."""
