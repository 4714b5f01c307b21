"""From attributions to raw maps: the evidence of every reading, laid on the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dcam_core.probing.answers import refuse_infinite
from dcam_core.probing.attributing import attribute

if TYPE_CHECKING:
    from dcam_core.probing.attributing import Evidence, LabelledAttribution
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
        seconds: of the attribution's own work; replays that it was fed from are not in it.
    """

    maps: list[Tensor]
    scores: Tensor
    log_probabilities: Tensor
    seconds: float


def make_raw_maps(
    attributions: Sequence[LabelledAttribution],
    replays: Replays,
    readings: Sequence[TargetReading],
    targets: Sequence[Target],
    on_readings: Callable[[int, int], None] | None = None,
) -> list[RawMaps]:
    """Let attributions do their work, and lay what they give on the pictures.

    Args:
        attributions: at least one; those that are fed by the probe share its replays.
        replays: the run.
        readings: R, those of `replays` with the targets that they belong to.
        targets: T words.
        on_readings: called after every batch with how many readings are done and how many there are, those of each
            attribution.

    Returns:
        One for each attribution.

    Raises:
        PluginError: an attribution failed, or a score is not finite.
    """
    grids, device = replays.grids, replays.device
    made = [
        RawMaps(
            [torch.zeros(len(targets), grid.rows, grid.cols, device=device) for grid in grids],
            torch.zeros(len(readings)),
            torch.zeros(len(readings)),
            0.0,
        )
        for _ in attributions
    ]
    done = 0
    for number, found in attribute(attributions, replays):
        made[number] = _with(made[number], found, replays, readings, targets)
        done += len(found.readings)
        if on_readings is not None:
            on_readings(done, len(attributions) * len(readings))
    return made


def _with(
    made: RawMaps,
    found: Evidence,
    replays: Replays,
    readings: Sequence[TargetReading],
    targets: Sequence[Target],
) -> RawMaps:
    """Raw maps with further evidence laid on them."""
    order = list(found.readings)
    refuse_infinite(
        [readings[i].score_from for i in order],
        [targets[readings[i].target].word for i in order],
        found.scores,
        found.log_probabilities,
    )
    grids, device = replays.grids, replays.device
    with torch.set_grad_enabled(replays.with_graph):
        weights = torch.tensor([readings[i].weight for i in order], device=device)
        owners = torch.tensor([readings[i].target for i in order], device=device)
        evidence = torch.split(found.values.to(device), [len(grid.positions) for grid in grids], dim=1)
        maps = [
            own.index_add(0, owners, grid.lay(part) * weights[:, None, None])
            for grid, own, part in zip(grids, made.maps, evidence, strict=True)
        ]
    made.scores[order] = found.scores.cpu()
    made.log_probabilities[order] = found.log_probabilities.cpu()
    return made._replace(maps=maps, seconds=made.seconds + found.seconds)
