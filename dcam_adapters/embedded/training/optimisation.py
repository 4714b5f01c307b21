"""Optimiser and learning-rate schedule of both stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Schedule", "optimisers"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    Attributes:
        steps: optimiser steps.
        batch: pictures in a step.
        rate: highest learning rate.
        warmup: steps until it is reached, in a straight line.
        floor: share of it that is left at the end of the cosine.
        weight_decay: of matrices; vectors (norms, biases) do not decay.
        average: decay of the weights' exponential moving average, which is what a stage hands on.
    """

    steps: int
    batch: int
    rate: float = 2e-3
    warmup: int = 200
    floor: float = 0.02
    weight_decay: float = 0.05
    average: float = 0.99

    def factor(self, step: int) -> float:
        """Learning rate at a step, as a share of the highest."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


def optimisers(module: nn.Module, schedule: Schedule) -> dict[str, Any]:
    """AdamW over all trainable parameters, and the schedule, in the form that Lightning takes."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
