"""Shared work as a prediction of Lightning's Trainer, which starts the processes and connects them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch.utils.data import DataLoader
from torchmetrics import SumMetric

from dcam_core.distributed.launching import check_started, launcher_in_slurm
from dcam_core.distributed.work import STRATEGIES, Processes, SharedWork
from dcam_core.errors import ConfigurationError, LostProcessError

if TYPE_CHECKING:
    from dcam_core.progress import Progress

__all__ = ["share_out"]

_PATIENCE = timedelta(days=1)
"""How long a process that is through waits for the others, whose shares may take much longer. One that died is
noticed long before: by its launcher, or because its connection was closed."""


class _Share(L.LightningModule):
    """What one process does. The model is none of its modules: Lightning has nothing to move, wrap or shard."""

    def __init__(self, work: SharedWork, progress: Progress | None) -> None:
        super().__init__()
        # Fewer things than processes may be left, when a run is continued.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.work = work
        self.progress = progress
        self.done = SumMetric()
        self.share: list[int] = []

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        self.work.prepare(strategy.root_device)
        # All take it from the first: what is there to be read changes as soon as one of them begins.
        remaining = list(self.work.remaining()) if self.trainer.is_global_zero else []
        with _others_alive():
            remaining = strategy.broadcast(remaining)
        self.share = remaining[self.trainer.global_rank :: self.trainer.world_size]
        if self.share:
            self.work.join(self.trainer.global_rank)

    def predict_dataloader(self) -> DataLoader[int]:
        # Lightning's own sampler for predictions wants at least one thing per process.
        return DataLoader(self.share, batch_size=None)  # type: ignore[arg-type]  # a list is a dataset

    def on_predict_start(self) -> None:
        # Lightning has all processes agree on SIGTERM, which those that are at work do not, and then predicts on.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._end)

    def _end(self, signum: int, frame: FrameType | None) -> None:
        """End as a program without Lightning does, and have those that this one has started do so too."""
        if self.trainer.strategy.launcher is not None:
            self.trainer.strategy.launcher.kill(signal.Signals(signum))
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def transfer_batch_to_device(self, batch: int, device: torch.device, dataloader_idx: int) -> int:
        return batch

    def predict_step(self, index: int, batch_idx: int) -> int:
        # A prediction has no gradients, explanations are made of them.
        with torch.enable_grad():
            self.work.do(int(index))
        self.done.update(1)
        if self.progress is not None and self.trainer.is_global_zero:
            self.progress(self.work.stage, batch_idx + 1, len(self.share))
        return int(index)

    def teardown(self, stage: str) -> None:
        # Lightning has taken the module off the device, where the processes talk to each other.
        self.done.to(self.trainer.strategy.root_device)
        with _others_alive():
            done = int(self.done.compute())
        if self.trainer.is_global_zero:
            self.work.finish(done)
        with _others_alive():
            self.trainer.strategy.barrier("merged")


def share_out(processes: Processes, work: SharedWork, progress: Progress | None) -> None:
    """See `Processes.share`."""
    strategy = DDPStrategy(timeout=_PATIENCE, start_method=STRATEGIES[processes.strategy])
    with _quiet():
        try:
            launcher = launcher_in_slurm()
            trainer = L.Trainer(
                accelerator=processes.accelerator,
                devices=processes.devices,
                num_nodes=processes.nodes,
                strategy=strategy,
                plugins=None if launcher is None else [launcher],
                use_distributed_sampler=False,
                inference_mode=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            check_started(strategy)
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise ConfigurationError(
                f"{processes.devices} devices of kind {processes.accelerator!r} on {processes.nodes} nodes cannot be "
                f"used: {line}"
            ) from error
        try:
            trainer.predict(_Share(work, progress), return_predictions=False)
        except SystemExit:
            # So Lightning ends a program that is interrupted; here somebody may want to say something first.
            if trainer.state.status == TrainerStatus.INTERRUPTED:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _others_alive() -> Iterator[None]:
    """Say in one line that another process has ended, where the backend says that a connection was closed."""
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's, which have nothing else in common
        raise LostProcessError(
            "another of the processes that share the work has ended before its time; why is its own to say. What is "
            "done is kept: the same call continues"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on training: the work has no worker processes and no modules on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings(
                "ignore", message=".*[Tt]otal length of .DataLoader. across ranks is zero"
            )
            warnings.filterwarnings("ignore", message=".*LeafSpec", module="lightning")
            warnings.filterwarnings("ignore", message="The `srun` command is available")  # not asked for
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
