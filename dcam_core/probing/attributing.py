"""From a run to raw evidence per image token: attributions, fed, and checked for what they gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from dcam_core.attribution import Attribution, ModelAttribution
from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import kind_of

if TYPE_CHECKING:
    from dcam_core.probing.probe import Probed
    from dcam_core.probing.replays import Replays

__all__ = ["Evidence", "LabelledAttribution", "attribute"]

LabelledAttribution: TypeAlias = "tuple[str, Attribution | ModelAttribution]"
"""What an attribution is and whose, for messages; and the attribution."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Raw evidence of some readings.

    Attributes:
        readings: [r] int, indices of the readings.
        values: [r, N] floating-point, finite, >= 0.
        scores: [r] float32, the scalars.
        log_probabilities: [r] float32, summed log-probability of the readings' tokens.
        seconds: of the attribution's own work; replays that it was fed from are not in it.
    """

    readings: tuple[int, ...]
    values: Tensor
    scores: Tensor
    log_probabilities: Tensor
    seconds: float


def attribute(
    attributions: Sequence[LabelledAttribution], replays: Replays
) -> Iterator[tuple[int, Evidence]]:
    """Let attributions do their work on the same replays.

    An `Attribution` is fed by the probe, a batch of states at a time; all of them are fed by one probe. With several
    layers, the evidence of each is stretched to [0, 1] for each reading, and their mean is taken: layers differ in
    scale, and none shall drown the others. A `ModelAttribution` does its own work.

    Args:
        attributions: at least one.
        replays: the run and its readings.

    Yields:
        The number of an attribution, and its evidence of some readings: of all of them in the end, in some order.

    Raises:
        PluginError: an attribution failed, or gave something else.
        DcamError: as the probe or the attribution raised it.
    """
    if not replays.readings:
        return
    fed = []
    for number, (label, attribution) in enumerate(attributions):
        if isinstance(attribution, ModelAttribution):
            yield number, _asked(label, attribution, replays)
        else:
            fed.append((number, label, attribution))
    if not fed:
        return
    for batch in replays.probed():
        for number, label, attribution in fed:
            yield number, _fed(label, attribution, replays, batch)


def _asked(label: str, attribution: ModelAttribution, replays: Replays) -> Evidence:
    """What an attribution finds out by itself."""
    began = time.perf_counter()
    with torch.no_grad():
        scores, log_probabilities = replays.log_probabilities()
        shape = [len(replays.readings), len(replays.positions)]
        values = _checked(label, shape, partial(attribution, replays), f"on {shape[0]} readings")
    return Evidence(tuple(range(shape[0])), values, scores, log_probabilities, time.perf_counter() - began)


def _fed(label: str, attribution: Attribution, replays: Replays, batch: Sequence[Probed]) -> Evidence:
    """What an attribution makes of what was probed, one `Probed` per layer."""
    if batch[0].activations.is_cuda:
        torch.cuda.synchronize()  # otherwise what the replay has still to do would count as its work
    began = time.perf_counter()
    found = []
    with torch.set_grad_enabled(replays.with_graph):
        for layer, probed in zip(replays.layers, batch, strict=True):
            shape = list(probed.activations.shape)
            given = (probed.activations, probed.gradients)
            where = f"at {layer!r}, on activations {shape}"
            found.append(_checked(label, shape[:2], partial(attribution, *given), where))
        values = found[0] if len(found) == 1 else torch.stack([_stretched(each) for each in found]).mean(0)
    seconds = time.perf_counter() - began
    return Evidence(batch[0].readings, values, batch[0].scores, batch[0].log_probabilities, seconds)


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
