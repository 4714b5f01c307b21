"""From what was probed to raw evidence per image token: the method's attribution, and a check of what it gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import kind_of

if TYPE_CHECKING:
    from dcam_core.attribution import Attribution
    from dcam_core.probing.probe import Probed

__all__ = ["attribute"]


def attribute(attribution: Attribution, label: str, probed: Probed, layer: str) -> Tensor:
    """Let an attribution do its work.

    Args:
        attribution: the method's.
        label: what it is and whose, for messages.
        probed: activations and gradients [R, N, C].
        layer: path of the probed module, for messages.

    Returns:
        [R, N] floating-point, finite, >= 0.

    Raises:
        PluginError: the attribution failed, or gave something else.
    """
    expected = list(probed.activations.shape[:2])
    try:
        values: object = attribution(probed.activations, probed.gradients)
    except DcamError:
        raise
    except Exception as error:
        raise PluginError(
            label, f"{label} failed on activations {list(probed.activations.shape)}: {describe(error)}"
        ) from error
    if not isinstance(values, Tensor) or list(values.shape) != expected or not values.is_floating_point():
        raise PluginError(
            label, f"{label} gave {kind_of(values)}: expected a floating-point tensor of shape {expected}"
        )
    if not values.isfinite().all():
        raise PluginError(
            label,
            f"{label} gave values that are not finite at {layer!r}: expected finite ones; if it is right, "
            "load the model with dtype=float32, or probe an earlier layer",
        )
    if values.numel() and values.amin() < 0:
        raise PluginError(
            label, f"{label} gave values down to {float(values.amin()):.4g}: expected evidence, >= 0"
        )
    return values
