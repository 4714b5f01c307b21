"""The callback: when to explain, on which ranks, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from dcam_core.adapter import Adapter
from dcam_core.dataset import Sample
from dcam_core.training.album import Album
from dcam_core.training.budget import TimeBudget
from dcam_core.training.cadence import Cadence
from dcam_core.training.samples import FromBatch, SampleSource
from dcam_core.training.settings import checked_name, checked_options, whole_number
from dcam_core.training.showing import SampleShower, ShownSample
from dcam_core.training.trained_adapter import trained_adapter
from dcam_core.training.undisturbed import undisturbed

__all__ = ["DiffusionCAM", "FromBatch"]

_log = logging.getLogger(__name__)

_SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
"""Under these a forward pass gathers weights from every rank, so that every rank must take part in it."""


class DiffusionCAM(L.Callback):
    """Shows what the words of a model look at while it is trained, validated and tested.

    At each moment some samples are explained, and every logger of the trainer gets, under tags that stay the same:

    * `dcam/STAGE/SAMPLE/WORD`: the map of a word over the picture;
    * `dcam/STAGE/SAMPLE/contact-sheet`: the maps of all words over the course of training;
    * `dcam/STAGE/NAME`: means over all words: the metrics where masks are given, `visual-reliance` (nats),
      `probability`, and `deletion-auc` and `insertion-auc` where they are asked for;
    * `dcam/STAGE/seconds` and `dcam/STAGE/left-out`: what explanations have taken of the run before, and how many
      were left out to keep it within bounds.

    STAGE is "train", "validate" or "test". The training is not disturbed: weights, gradients, optimisers, buffers,
    random numbers (of the CPU and of CUDA), modes and hooks are afterwards as they would be without the callback. It
    is silent during sanity checking. Its time stands in Lightning's profiler under "DiffusionCAM.explain", that of a
    function which chooses under "DiffusionCAM.choose".

    Args:
        samples: what is explained each time; or a function that chooses it from the batch at hand, an empty list for
            nothing. In validating and testing it is asked about the first batch; if it has a parameter `batch_idx`,
            about every batch (and may have `dataloader_idx` too).
        model: the adapter around the model that is trained; or a function that gives it for the LightningModule; or
            the name of the LightningModule's attribute that holds it, dots allowed.
        method: name of a method preset, or path of a YAML file; None: the default of `Explainer`.
        every_n_train_steps: explain after every so many optimiser steps, as `trainer.global_step` counts them: with
            several optimisers, the steps of each.
        every_n_epochs: explain at the end of every so many epochs, and at the end of the training if it ends in
            between. Where neither is given: every epoch.
        before_training: also explain before the first step, where `samples` are fixed.
        during_validation: also explain in every validation of `fit`, with the weights that are validated (averaged
            ones, where a callback averages them). `Trainer.validate` and `Trainer.test` always explain once.
        words: which words are explained, as `Explainer.explain` takes them; None: those that name an object of the
            sample, or all words of a sample without objects.
        captions: whether a sample's caption is explained, where it has one, rather than what the model says. A
            caption has the same words all the time, so that maps can be compared.
        metrics: metrics that compare maps with masks, as `dcam evaluate --metrics` takes them, for words that name an
            object; "localisation", or None: those that it measures.
        reliance: whether visual reliance is measured: a few forward passes for each sample.
        deletion_intervals: intervals of the deletion curve, whose cost is twice as many forward passes for each word;
            0: it is not measured.
        max_frames: how many moments a contact sheet keeps, spread over the whole of training.
        max_time_fraction: which share of the time since the run began explanations may take; what is due beyond it is
            left out, and said. The first is always made. None: no bound.
        strict: whether an error in an explanation ends the training. False: it is logged with its traceback, and
            training goes on. A wrong setting of the callback is always an error.
        every_rank: whether all ranks explain what rank zero chose, and rank zero alone logs; None: under strategies
            that shard weights.
        name: the first part of every tag, and what tells this callback from another one in a checkpoint: two in one
            trainer need two names. With the same name, a run that is resumed with another cadence keeps its maps.
        options: further arguments of `Explainer`, such as `probe_layer` or `overrides`.

    Attributes:
        history: what was shown: for each moment stage, step, epoch, samples and mean scores. Kept in checkpoints; a
            second training from the beginning begins it anew.
        left_out: how often something was due and left out, because it would have taken too much of the time.
        failed: how often an explanation failed.

    Raises:
        ConfigurationError: a setting or a sample is wrong. What only the model can tell is told before the first
            training step, and before validating or testing.

    Example:
        >>> callback = DiffusionCAM(samples, every_n_train_steps=500)  # doctest: +SKIP
        >>> L.Trainer(max_steps=5000, callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        samples: Sequence[Sample] | FromBatch,
        *,
        model: Adapter | Callable[[L.LightningModule], Adapter] | str = "adapter",
        method: str | Path | None = None,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        before_training: bool = True,
        during_validation: bool = False,
        words: Sequence[str | int] | None = None,
        captions: bool = True,
        metrics: Sequence[str] | None = None,
        reliance: bool = True,
        deletion_intervals: int = 0,
        max_frames: int = 12,
        max_time_fraction: float | None = 0.1,
        strict: bool = False,
        every_rank: bool | None = None,
        name: str = "dcam",
        **options: Any,
    ) -> None:
        self.name = checked_name(name)
        self._source = SampleSource(samples)
        self._cadence = Cadence(every_n_train_steps, every_n_epochs)
        self._album = Album(self.name, max_frames)
        self._model, self._metrics = model, metrics
        self._explained_by = checked_options(options if method is None else {"method": method, **options})
        self._before_training, self._during_validation = before_training, during_validation
        self._shown_how: dict[str, Any] = {
            "words": words,
            "captions": captions,
            "reliance": reliance,
            "deletion_intervals": whole_number("deletion_intervals", deletion_intervals, 0),
        }
        self._strict, self._every_rank = strict, every_rank
        self._budget = TimeBudget(max_time_fraction)
        self._shower: SampleShower | None = None
        self._has_trained = self._missing_told = False
        self.left_out = self.failed = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was shown."""
        return self._album.history

    # -- when ------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to count the time."""
        self._budget.start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Explain the untrained model, unless the run is resumed."""
        if self._has_trained and trainer.global_step == 0:  # another training, such as the next fold
            self._album.clear()
            self.left_out = self.failed = 0
        self._has_trained = True
        self._cadence.start(trainer)
        self._attach(pl_module)
        if self._before_training and trainer.global_step == 0 and self._source.fixed:
            self._show(trainer, pl_module, "train", None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Explain if it is time."""
        if self._cadence.is_due(trainer):
            self._show(trainer, pl_module, "train", batch, batch_idx=batch_idx, dataloader_idx=0)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Explain what an epoch has learned that was not gone through. There is no batch for a function to see."""
        if self._source.fixed and self._cadence.is_overdue(trainer):
            self._show(trainer, pl_module, "train", None)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what is wrong."""
        if not trainer.sanity_checking:
            self._attach(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain after the first batch: then the weights that are validated are in place, whoever put them there."""
        wanted = self._during_validation or trainer.state.fn == TrainerFn.VALIDATING
        if wanted and not trainer.sanity_checking:
            self._evaluated(trainer, pl_module, "validate", batch, batch_idx, dataloader_idx)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what is wrong."""
        self._attach(pl_module)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain after the first batch."""
        self._evaluated(trainer, pl_module, "test", batch, batch_idx, dataloader_idx)

    def _evaluated(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        stage: str,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Explain after the first batch, or after every one that a function wants to see."""
        if self._source.sees_every_batch or batch_idx == dataloader_idx == 0:
            self._show(trainer, module, stage, batch, batch_idx=batch_idx, dataloader_idx=dataloader_idx)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the model and the loggers; say what was left out."""
        self._shower = None
        self._album.close()
        if self.left_out:
            rank_zero_info(f"{self.name}: {self.left_out} explanations were left out, to save time")

    # -- what ------------------------------------------------------------------------------------------------

    def _attach(self, module: L.LightningModule) -> SampleShower:
        """Put the method on the model that is trained; on all ranks, so that what is wrong ends all of them alike."""
        if self._shower is None:
            with undisturbed(module):
                adapter = trained_adapter(self._model, module)
                self._shower = SampleShower.of(adapter, self._explained_by, self._metrics, **self._shown_how)
        return self._shower

    def _show(
        self, trainer: L.Trainer, module: L.LightningModule, stage: str, batch: Any, **place: int
    ) -> None:
        """Choose, explain and log, on the ranks that must, within the time that there is."""
        everyone = isinstance(trainer.strategy, _SHARDED) if self._every_rank is None else self._every_rank
        if not everyone and not trainer.is_global_zero:
            return
        shower = self._attach(module)
        with self._tolerated(trainer):
            samples = self._source.fixed or self._choose(trainer, module, everyone, batch, **place)
            if not samples or not self._in_time(trainer, everyone):
                return
            with (
                _profiler(trainer).profile("DiffusionCAM.explain"),
                self._budget.spending(),
                undisturbed(module),
            ):
                shown = [shower.show(sample) for sample in samples]
                if trainer.is_global_zero:
                    numbers = {"seconds": self._budget.spent, "left-out": self.left_out}
                    self._album.add(trainer, stage, shown, numbers)
            self._tell_missing(shown)

    def _choose(
        self, trainer: L.Trainer, module: L.LightningModule, everyone: bool, batch: Any, **place: int
    ) -> tuple[Sample, ...]:
        """What the function wants to be explained: that of rank zero, where all ranks explain."""
        with _profiler(trainer).profile("DiffusionCAM.choose"), self._budget.counting(), undisturbed(module):
            if everyone:
                return self._source.chosen_alike(trainer.strategy, batch, **place)
            return self._source.chosen(batch, **place)

    def _in_time(self, trainer: L.Trainer, everyone: bool) -> bool:
        """Whether there is time for it; what is left out is counted, and said the first time."""
        allowed = self._budget.allows
        if everyone:  # clocks differ: one decides for all, or some would wait for others for ever
            allowed = trainer.strategy.broadcast(allowed)
        if not allowed:
            if not self.left_out:
                rank_zero_info(
                    f"{self.name}: at step {trainer.global_step} nothing is explained, nor whenever else it would "
                    f"take more than max_time_fraction={self._budget.max_fraction} of the run's time: raise it, or "
                    "explain less often"
                )
            self.left_out += 1
        return allowed

    @contextmanager
    def _tolerated(self, trainer: L.Trainer) -> Iterator[None]:
        """An error in the body is counted and logged, and ends the training only where it shall."""
        try:
            yield
        except Exception:
            self.failed += 1
            if self._strict:
                raise
            _log.exception(
                "explaining failed at step %d; training goes on (strict=True would end it)",
                trainer.global_step,
            )

    def _tell_missing(self, shown: Sequence[ShownSample]) -> None:
        """Say once which words of fixed samples get no map."""
        missing = [sample for sample in shown if sample.missing]
        if missing and self._source.fixed and not self._missing_told:
            self._missing_told = True
            lines = (f"{item.key!r} ({item.answer!r}) has no {', '.join(item.missing)}" for item in missing)
            rank_zero_warn(
                f"{self.name}: words without a map, because they are not in the answer that is explained: "
                f"{'; '.join(lines)}. Name other `words`, or give the sample a caption that has them"
            )

    # -- checkpoints -----------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells callbacks of several names apart in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """What was shown so far, with the frames of the contact sheets."""
        return {**self._album.state_dict(), "left_out": self.left_out, "failed": self.failed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self._has_trained = False
        self._album.load_state_dict(state_dict)
        self.left_out, self.failed = state_dict["left_out"], state_dict["failed"]


def _profiler(trainer: L.Trainer) -> Profiler:
    """Lightning sets it and does not declare it."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    return profiler
