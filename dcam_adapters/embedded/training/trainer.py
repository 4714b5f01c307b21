"""Training one stage with Lightning: resumable, logged, with averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, IterableDataset

from dcam_adapters.embedded.training.optimisation import Schedule

__all__ = ["fit"]


def fit(
    stage: L.LightningModule,
    batches: Callable[[int], IterableDataset[Any]],
    validation: Iterable[Any],
    schedule: Schedule,
    folder: Path,
    *,
    validate_every: int,
    save_every: int,
    callbacks: Sequence[L.Callback] = (),
) -> None:
    """Trains one stage, from its last checkpoint if there is one; its averaged weights are left in it.

    Losses, accuracy, and what `callbacks` log go to CSV files in `folder/logs`, and to `folder/tensorboard` where
    TensorBoard is installed.

    Args:
        stage: what is trained.
        batches: number of the first batch -> endless batches.
        validation: batches of the validation.
        schedule: length of the training.
        folder: for checkpoints and logs.
        validate_every: steps between two validations.
        save_every: steps between two checkpoints.
        callbacks: further callbacks. What they remember is kept in the checkpoints.
    """
    last = folder / "last.ckpt"
    # The checkpoint is our own; Lightning's callbacks keep more than tensors in it.
    saved = torch.load(last, map_location="cpu", weights_only=False) if last.is_file() else None
    start = int(saved["global_step"]) if saved else 0
    if saved and start >= schedule.steps:
        # Nothing is left to train. The trainer would put back the weights as trained, not their average.
        stage.load_state_dict(saved["state_dict"])
        return
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=schedule.steps,
        gradient_clip_val=1.0,
        val_check_interval=min(validate_every, schedule.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=_loggers(folder),
        log_every_n_steps=20,
        enable_model_summary=False,
        callbacks=[
            EMAWeightAveraging(decay=schedule.average),
            ModelCheckpoint(
                folder, filename="last", every_n_train_steps=save_every, enable_version_counter=False
            ),
            *callbacks,
        ],
    )
    rank_zero_info(f"training {type(stage).__name__} from step {start} to {schedule.steps}")
    loader: DataLoader[Any] = DataLoader(batches(start), batch_size=None)
    trainer.fit(stage, loader, validation, ckpt_path=last if start else None, weights_only=False)


def _loggers(folder: Path) -> list[Logger]:
    """CSV files, which nothing has to be installed for; and TensorBoard, if it is."""
    loggers: list[Logger] = [CSVLogger(folder, name="logs", flush_logs_every_n_steps=20)]
    if find_spec("tensorboard") is None:
        rank_zero_info(
            f"logging to {folder / 'logs'} alone: TensorBoard is not installed (pip install tensorboard)"
        )
    else:
        # No folders for versions: a training that was interrupted goes on with its curves.
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    return loggers
