"""Pictures and numbers for whatever loggers a trainer has.

Lightning's loggers share `log_metrics` and nothing for pictures. What a logger can do is asked of the object itself,
so that a logger which behaves like one of these is served like it:

| has | as | pictures go to |
|---|---|---|
| `log_image(key, images, step)` | W&B | the logger |
| `experiment.add_image` | TensorBoard | the experiment |
| `experiment.log_image`, `run_id` | MLflow | the run |
| `experiment.log_image` | Comet | the experiment |
| none of them | CSV | files in the logger's folder |
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger
from PIL.Image import Image

__all__ = ["Notebook", "tag"]


def tag(*parts: str) -> str:
    """A stable tag: "dcam/train/scene-3/circle". What loggers or file systems refuse becomes "_"."""
    return "/".join(re.sub(r"[^\w.\-]+", "_", part).strip(".") or "_" for part in parts)


class Notebook:
    """Everything that a trainer logs to; a CSV logger in the trainer's folder where it has none.

    Call it on rank zero only.

    Args:
        trainer: whose loggers are written to.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        # Not `trainer.log_dir`: it is agreed upon by all ranks, who would be waited for.
        self._folder = Path(trainer.default_root_dir)
        self._own = None if trainer.loggers else CSVLogger(trainer.default_root_dir, name="dcam")
        self._loggers: list[Logger] = [self._own] if self._own else list(trainer.loggers)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers under their tags."""
        for logger in self._loggers:
            logger.log_metrics(dict(values), step=step)
        if self._own is not None:
            self._own.save()  # nobody else does

    def picture(self, name: str, picture: Image, step: int) -> None:
        """Log a picture; where it becomes a file, one for each step.

        Args:
            name: its tag, the same at every step.
            picture: RGB.
            step: optimiser steps so far.
        """
        for folder in self._given(name, picture, step):
            _write(picture, folder / name / f"step-{step:08d}.png")

    def sheet(self, name: str, picture: Image, step: int) -> None:
        """Log a picture that holds what it held before; where it becomes a file, one that is replaced.

        Args:
            name: its tag, the same at every step.
            picture: RGB.
            step: optimiser steps so far.
        """
        for folder in self._given(name, picture, step):
            _write(picture, folder / f"{name}.png")

    def _given(self, name: str, picture: Image, step: int) -> set[Path]:
        """Give a picture to all loggers; the folders of those that take none."""
        return {
            Path(getattr(logger, "log_dir", None) or self._folder)
            for logger in self._loggers
            if not _take_picture(logger, name, picture, step)
        }


def _write(picture: Image, path: Path) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    picture.save(new, "png")
    new.replace(path)


def _take_picture(logger: Logger, name: str, picture: Image, step: int) -> bool:
    """Give a picture to a logger; False if it takes none."""
    own: Any = getattr(logger, "log_image", None)
    if callable(own):
        own(key=name, images=[picture], step=step)
        return True
    experiment: Any = getattr(logger, "experiment", None)
    if callable(add := getattr(experiment, "add_image", None)):
        add(name, np.asarray(picture), step, dataformats="HWC")
        return True
    if callable(log := getattr(experiment, "log_image", None)):
        if "run_id" in inspect.signature(log).parameters:
            log(getattr(logger, "run_id", None), picture, key=_ascii(name), step=step)
        else:
            log(picture, name=name, step=step)
        return True
    return False


def _ascii(name: str) -> str:
    """A tag without letters that MLflow refuses: "dcam/train/a/苹果" -> "dcam/train/a/u82f9u679c"."""
    return "".join(letter if letter.isascii() else f"u{ord(letter):04x}" for letter in name)
