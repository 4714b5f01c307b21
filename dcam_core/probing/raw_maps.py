"""From a method's attribution to raw maps: the evidence of every reading, laid on the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dcam_core.probing.answers import refuse_infinite
from dcam_core.probing.attributing import attribute

if TYPE_CHECKING:
    from dcam_core.attribution import Attribution, ModelAttribution
    from dcam_core.probing.readings import TargetReading
    from dcam_core.probing.replays import Replays
    from dcam_core.probing.targets import Target

__all__ = ["RawMaps", "make_raw_maps"]


class RawMaps(NamedTuple):
    """What the readings of a run gave.

    Attributes:
        maps: one [T, H, W] float32 per picture, on the model's device: the mean of each target's readings, weighted.
        scores: [R] float32 on the CPU, the scalar of each reading.
        log_probabilities: [R] float32 on the CPU, summed log-probability of the tokens of each reading, in nats.
    """

    maps: list[Tensor]
    scores: Tensor
    log_probabilities: Tensor


def make_raw_maps(
    attribution: Attribution | ModelAttribution,
    label: str,
    replays: Replays,
    readings: Sequence[TargetReading],
    targets: Sequence[Target],
    on_readings: Callable[[int, int], None] | None = None,
) -> RawMaps:
    """Let an attribution do its work, and lay what it gives on the pictures.

    Args:
        attribution: the method's.
        label: what it is and whose, for messages.
        replays: the run.
        readings: R, those of `replays` with the targets that they belong to.
        targets: T words.
        on_readings: called after every batch with how many readings are done and how many there are.

    Raises:
        PluginError: the attribution failed, or a score is not finite.
    """
    device = replays.device
    grids = replays.grids
    maps = [torch.zeros(len(targets), grid.rows, grid.cols, device=device) for grid in grids]
    scores, log_probabilities = torch.zeros(len(readings)), torch.zeros(len(readings))
    done = 0
    for found in attribute(attribution, label, replays):
        with torch.set_grad_enabled(replays.with_graph):
            order = list(found.readings)
            refuse_infinite(
                [readings[i].score_from for i in order],
                [targets[readings[i].target].word for i in order],
                found.scores,
                found.log_probabilities,
            )
            weights = torch.tensor([readings[i].weight for i in order], device=device)
            owners = torch.tensor([readings[i].target for i in order], device=device)
            evidence = torch.split(found.values.to(device), [len(grid.positions) for grid in grids], dim=1)
            maps = [
                own.index_add(0, owners, grid.lay(part) * weights[:, None, None])
                for grid, own, part in zip(grids, maps, evidence, strict=True)
            ]
        scores[order] = found.scores.cpu()
        log_probabilities[order] = found.log_probabilities.cpu()
        done += len(order)
        if on_readings is not None:
            on_readings(done, len(readings))
    return RawMaps(maps, scores, log_probabilities)
