"""When it is time to explain in a training."""

from __future__ import annotations

import lightning as L

from dcam_core.training.settings import whole_number

__all__ = ["Cadence"]


class Cadence:
    """Every so many steps, every so many epochs, or both; every epoch where neither is said.

    Args:
        every_n_train_steps: optimiser steps, at least 1.
        every_n_epochs: epochs, at least 1. Then the end of the training is a moment too, wherever it ends.

    Raises:
        ConfigurationError: one of them is no such number.
    """

    def __init__(self, every_n_train_steps: int | None, every_n_epochs: int | None) -> None:
        self._steps = whole_number("every_n_train_steps", every_n_train_steps, 1)
        self._epochs = whole_number("every_n_epochs", every_n_epochs, 1)
        if self._steps is None and self._epochs is None:
            self._epochs = 1
        self._last = self._explained = 0

    def start(self, trainer: L.Trainer) -> None:
        """A training begins or goes on."""
        self._last = self._explained = trainer.global_step

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether to explain now; ask once after every batch."""
        last, step = self._last, trainer.global_step
        self._last = step
        # Lightning counts the steps of every optimiser, so that multiples of a number may be stepped over.
        due = self._steps is not None and step // self._steps > last // self._steps
        if self._epochs is not None:
            due |= trainer.is_last_batch and (trainer.current_epoch + 1) % self._epochs == 0
            due |= 0 <= trainer.max_steps <= step
        if due:
            self._explained = step
        return due

    def is_overdue(self, trainer: L.Trainer) -> bool:
        """Whether to explain at the end of the training, which may have ended within an epoch."""
        return self._epochs is not None and trainer.global_step > self._explained
