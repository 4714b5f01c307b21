"""From a run to raw evidence per image token: the method's attribution, fed, and checked for what it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.attribution import Attribution, ModelAttribution
from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import kind_of

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["Evidence", "attribute"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Raw evidence of some readings.

    Attributes:
        readings: [r] int, indices of the readings.
        values: [r, N] floating-point, finite, >= 0.
        scores: [r] float32, the scalars.
        log_probabilities: [r] float32, summed log-probability of the readings' tokens.
    """

    readings: tuple[int, ...]
    values: Tensor
    scores: Tensor
    log_probabilities: Tensor


def attribute(
    attribution: Attribution | ModelAttribution, label: str, replays: Replays
) -> Iterator[Evidence]:
    """Let an attribution do its work.

    An `Attribution` is fed by the probe, a batch of states at a time. With several layers, the evidence of each is
    stretched to [0, 1] for each reading, and their mean is taken: layers differ in scale, and none shall drown
    the others. A `ModelAttribution` does its own work.

    Args:
        attribution: the method's.
        label: what it is and whose, for messages.
        replays: the run and its readings.

    Yields:
        Evidence of all readings, in some order.

    Raises:
        PluginError: the attribution failed, or gave something else.
        DcamError: as the probe or the attribution raised it.
    """
    if not replays.readings:
        return
    if isinstance(attribution, ModelAttribution):
        with torch.no_grad():
            scores, log_probabilities = replays.log_probabilities()
            shape = [len(replays.readings), len(replays.positions)]
            values = _checked(label, shape, partial(attribution, replays), f"on {shape[0]} readings")
        yield Evidence(tuple(range(shape[0])), values, scores, log_probabilities)
        return
    for batch in replays.probed():
        found = []
        with torch.set_grad_enabled(replays.with_graph):
            for layer, probed in zip(replays.layers, batch, strict=True):
                shape = list(probed.activations.shape)
                given = (probed.activations, probed.gradients)
                fed = f"at {layer!r}, on activations {shape}"
                found.append(_checked(label, shape[:2], partial(attribution, *given), fed))
            values = (
                found[0] if len(found) == 1 else torch.stack([_stretched(each) for each in found]).mean(0)
            )
        yield Evidence(batch[0].readings, values, batch[0].scores, batch[0].log_probabilities)


def _stretched(values: Tensor) -> Tensor:
    """[r, N] values of each reading stretched to [0, 1]; zero where they are all the same."""
    low, high = values.aminmax(dim=1, keepdim=True)
    return (values - low) / (high - low).where(high > low, 1)


def _checked(label: str, expected: list[int], work: Callable[[], object], fed: str) -> Tensor:
    """What an attribution gave, if it is evidence of the expected shape."""
    try:
        values = work()
    except DcamError:
        raise
    except Exception as error:
        raise PluginError(label, f"{label} failed {fed}: {describe(error)}") from error
    if not isinstance(values, Tensor) or list(values.shape) != expected or not values.is_floating_point():
        raise PluginError(
            label, f"{label} gave {kind_of(values)}: expected a floating-point tensor of shape {expected}"
        )
    if not values.isfinite().all():
        raise PluginError(
            label,
            f"{label} gave values that are not finite {fed}: expected finite ones; if it is right, "
            "load the model with dtype=float32, or probe an earlier layer",
        )
    if values.numel() and values.amin() < 0:
        raise PluginError(
            label, f"{label} gave values down to {float(values.amin()):.4g}: expected evidence, >= 0"
        )
    return values
