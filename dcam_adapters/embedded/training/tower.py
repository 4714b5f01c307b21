"""Stage 1: the vision tower alone, on what each patch shows.

A stand-in for a pretrained tower. For every patch: which shape it belongs to, which colour, and where that
object's centre is. This is the only stage that sees masks; the heads are thrown away after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from dcam_adapters.common.siglip import SiglipTower, VisionConfig
from dcam_adapters.embedded.training.initialisation import initialise_tower
from dcam_adapters.embedded.training.optimisation import Schedule, optimisers
from dcam_adapters.embedded.training.scenes import SceneArrays

__all__ = ["PatchBatches", "TowerStage"]

BACKGROUND_WEIGHT = 0.15
"""Weight of a background patch in the losses: most patches are background, and easy."""

COLOUR_WEIGHT = 0.5
OFFSET_UNIT = 16.0
"""Pixels in which the offset to the object's centre is predicted."""


class PatchBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches of (pixels, patch labels), half of them mirrored.

    Args:
        scenes: rendered scenes.
        size: scenes in a batch.
        seed: seed of the draws; batch number n is the same whatever came before it.
        start: number of the first batch: training that is resumed goes on where it stopped.
    """

    def __init__(self, scenes: SceneArrays, size: int, seed: int, start: int = 0) -> None:
        self.scenes, self.size, self.seed, self.start = scenes, size, seed, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        number = self.start
        while True:
            random = np.random.default_rng([self.seed, number])
            indices = random.integers(0, len(self.scenes), self.size)
            pixels, patches, _ = self.scenes.batch(indices, mirrored=random.random() < 0.5)
            yield pixels, patches
            number += 1


class TowerStage(L.LightningModule):
    """Learns the tower on patches.

    Args:
        config: dimensions of the tower.
        shapes: number of shapes.
        colours: number of colours.
        schedule: length and learning rate.
    """

    def __init__(self, config: VisionConfig, shapes: int, colours: int, schedule: Schedule) -> None:
        super().__init__()
        self.sizes = [shapes + 1, colours + 1, 2]
        self.schedule = schedule
        # transformers' "eager" attention: several times faster than SDPA in bfloat16 on CPUs.
        self.tower = SiglipTower(config, attention="eager")
        self.heads = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, sum(self.sizes))
        )
        initialise_tower(self.tower, config)
        self.run: Any = self.forward

    def on_fit_start(self) -> None:
        """Compile; not earlier, because the averaged copy of this module is made before."""
        self.run = torch.compile(self.forward)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, P * P, shapes + colours + 2]."""
        out: Tensor = self.heads(self.tower(pixels))
        return out

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy of shape and colour, smooth L1 of the offset."""
        pixels, patches = batch
        labels = patches.flatten(0, 2)
        shape, colour, offset = self.run(pixels).float().flatten(0, 1).split(self.sizes, dim=-1)
        named = labels[:, 0] > 0
        weight = torch.where(named, 1.0, BACKGROUND_WEIGHT)
        shape_loss = _weighted(F.cross_entropy(shape, labels[:, 0], reduction="none"), weight)
        colour_loss = _weighted(F.cross_entropy(colour, labels[:, 1], reduction="none"), weight)
        offset_loss = F.smooth_l1_loss(offset[named], labels[named, 2:].float() / OFFSET_UNIT)
        loss = shape_loss + COLOUR_WEIGHT * colour_loss + offset_loss
        self.log_dict({"train/loss": loss, "train/shape": shape_loss}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Share of object patches whose shape, and whose colour, is right."""
        pixels, patches = batch
        labels = patches.flatten(0, 2)
        shape, colour, _ = self.run(pixels).float().flatten(0, 1).split(self.sizes, dim=-1)
        named = labels[:, 0] > 0
        right = {
            "validation/shape": (shape.argmax(-1) == labels[:, 0])[named].float().mean(),
            "validation/colour": (colour.argmax(-1) == labels[:, 1])[named].float().mean(),
        }
        self.log_dict(right, prog_bar=True, batch_size=int(named.sum()))

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine."""
        return optimisers(self, self.schedule)


def validation_batches(scenes: SceneArrays, size: int) -> DataLoader[Any]:
    """All scenes once, in order."""
    starts = range(0, len(scenes) - size + 1, size)
    batches = [scenes.batch(np.arange(start, start + size), mirrored=False)[:2] for start in starts]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset


def _weighted(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).sum() / weight.sum()
