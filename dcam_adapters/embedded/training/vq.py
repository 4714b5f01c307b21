"""Stage 1 of tiny-mmada: the image tokenizer alone, on what each patch shows.

A stand-in for a pretrained tokenizer. Reconstruction alone spends a small code on backgrounds and loses shapes;
so from the *quantised* bits of every patch, throw-away heads must tell which shape it belongs to, which colour,
and where that object's centre is. This is the only stage that sees masks.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcam_adapters.embedded.training.optimisation import Schedule, optimisers
from dcam_adapters.embedded.training.tower import BACKGROUND_WEIGHT, COLOUR_WEIGHT, OFFSET_UNIT
from dcam_adapters.mmada.magvit import Magvit, MagvitConfig

__all__ = ["PictureTokenizerStage"]

CODE_OFFSET_WEIGHT = 0.3
"""Weight of the offset read from the bits: a code has room for a rough one only."""

UNDECIDED_WEIGHT = 0.02
"""Weight of the bits' mean entropy: a bit far from zero does not flip with the last digit of a pixel."""

HIDDEN = 256
"""Width of the hidden layer that reads the bits: what is told by few bits is told by their combination."""


class PictureTokenizerStage(L.LightningModule):
    """Learns the encoder of the image tokenizer on patches.

    Args:
        config: dimensions of the tokenizer.
        shapes: number of shapes.
        colours: number of colours.
        schedule: length and learning rate.
    """

    def __init__(self, config: MagvitConfig, shapes: int, colours: int, schedule: Schedule) -> None:
        super().__init__()
        self.sizes = [shapes + 1, colours + 1, 2]
        self.schedule = schedule
        self.tokenizer = Magvit(config)
        width = config.ch * config.ch_mult[-1]
        # The features learn as a tower's would, whatever the bits let through of the gradient.
        self.feature_heads = nn.Linear(width, sum(self.sizes))
        self.code_heads = nn.Sequential(
            nn.Linear(config.z_channels, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, sum(self.sizes))
        )
        self.run: Any = self.forward

    def on_fit_start(self) -> None:
        """Compile; not earlier, because the averaged copy of this module is made before."""
        self.run = torch.compile(self.forward)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values before the sign, and what the features and what the bits tell of every patch.

        [B, 3, R, R] -> [P, K] and twice [P, shapes + colours + 2], P = B * g * g.
        """
        features = self.tokenizer.encoder.features(pixels)
        values = _rows(self.tokenizer.encoder.values(features)).float()
        # A straight-through sign: one of -1 and 1 forwards, tanh backwards. (With the identity values grow without
        # end, since only their signs are read.)
        soft = values.tanh()
        bits = soft + (torch.where(values > 0, 1.0, -1.0) - soft).detach()
        return values, self.feature_heads(_rows(features)), self.code_heads(bits)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy of shape and colour and smooth L1 of the offset, for features and for bits."""
        pixels, patches = batch
        labels = patches.flatten(0, 2)
        values, by_feature, by_code = self.run(pixels)
        by_feature, _ = self._loss(by_feature, labels, offset_weight=1.0)
        by_code, shape = self._loss(by_code, labels, offset_weight=CODE_OFFSET_WEIGHT)
        undecided = _entropy(torch.sigmoid(2 * values)).mean()
        loss = by_feature + by_code + UNDECIDED_WEIGHT * undecided
        figures = {"train/loss": loss, "train/shape": shape, "train/undecided": undecided}
        self.log_dict(figures, prog_bar=True)
        return loss

    def _loss(self, told: Tensor, labels: Tensor, *, offset_weight: float) -> tuple[Tensor, Tensor]:
        """The whole loss of one pair of heads, and the shape's share of it."""
        shape, colour, offset = torch.split(told.float(), self.sizes, dim=-1)
        named = labels[:, 0] > 0
        weight = torch.where(named, 1.0, BACKGROUND_WEIGHT)
        weight = weight / weight.sum()
        shape_loss = (F.cross_entropy(shape, labels[:, 0], reduction="none") * weight).sum()
        colour_loss = (F.cross_entropy(colour, labels[:, 1], reduction="none") * weight).sum()
        offset_loss = F.smooth_l1_loss(offset[named], labels[named, 2:].float() / OFFSET_UNIT)
        return shape_loss + COLOUR_WEIGHT * colour_loss + offset_weight * offset_loss, shape_loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Share of object patches whose shape, and whose colour, can be told from the bits alone."""
        pixels, patches = batch
        labels = patches.flatten(0, 2)
        values, by_feature, by_code = self.run(pixels)
        shape, colour, _ = torch.split(by_code.float(), self.sizes, dim=-1)
        named = labels[:, 0] > 0

        def right(told: Tensor, truth: Tensor, where: Tensor) -> Tensor:
            return (told.argmax(-1) == truth)[where].float().mean()

        bits = (values[named] > 0).float()
        figures = {
            "validation/shape": right(shape, labels[:, 0], named),
            "validation/colour": right(colour, labels[:, 1], named),
            "validation/background": right(shape, labels[:, 0], ~named),
            "validation/shape_of_features": right(by_feature[:, : self.sizes[0]], labels[:, 0], named),
            # The bits' mean entropy over object patches: 1 if each is set in half of them.
            "validation/bit_use": _entropy(bits.mean(0)).mean() / torch.tensor(2.0).log(),
        }
        self.log_dict(figures, prog_bar=True, batch_size=int(named.sum()))

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine."""
        return optimisers(self, self.schedule)


def _rows(grid: Tensor) -> Tensor:
    """[B, C, g, g] -> [B * g * g, C]."""
    return grid.permute(0, 2, 3, 1).flatten(0, 2)


def _entropy(share: Tensor) -> Tensor:
    """Entropy in nats of a coin that shows heads with this probability."""
    share = share.clamp(1e-6, 1 - 1e-6)
    return -(share * share.log() + (1 - share) * (1 - share).log())
