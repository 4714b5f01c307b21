"""The callback: when to explain, on which ranks, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from dcam_core.adapter import Adapter
from dcam_core.dataset import Sample
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation.measures import measures
from dcam_core.explainer import Explainer
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.overlay import display_size, overlay_figure, rasterise
from dcam_core.training.budget import TimeBudget
from dcam_core.training.contact_sheet import ContactSheet
from dcam_core.training.notebook import Notebook, tag
from dcam_core.training.showing import SampleShower, ShownSample, ShownWord, mean_scores
from dcam_core.training.undisturbed import undisturbed

__all__ = ["DiffusionCAM", "FromBatch"]

_log = logging.getLogger(__name__)

FromBatch = Callable[[Any], Sequence[Sample]]
"""Chooses what is explained of a batch: batch -> samples with keys that stay the same from batch to batch."""

_SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
"""Under these a forward pass gathers weights from every rank, so that every rank must take part in it."""


class DiffusionCAM(L.Callback):
    """Shows what the words of a model look at while it is trained, validated and tested.

    At each moment some samples are explained, and every logger of the trainer gets, under tags that stay the same:

    * `dcam/STAGE/SAMPLE/WORD`: the map of a word over the picture;
    * `dcam/STAGE/SAMPLE/contact-sheet`: the maps of all words over the course of training;
    * `dcam/STAGE/NAME`: means over all words: the metrics where masks are given, `visual-reliance` (nats),
      `probability`, and `deletion-auc` and `insertion-auc` where they are asked for; and `seconds`, what explanations
      have taken of the run before.

    STAGE is "train", "validate" or "test". The training is not disturbed: weights, gradients, optimisers, random
    numbers, modes and hooks are afterwards as they would be without the callback. It is silent during sanity
    checking. Its time stands in Lightning's profiler under "DiffusionCAM.explain".

    Args:
        samples: what is explained each time; or a function that chooses it from the batch at hand.
        model: the adapter around the model that is trained; or a function that gives it for the LightningModule; or
            the name of the LightningModule's attribute that holds it, dots allowed.
        method: name of a method preset, or path of a YAML file; None: the default of `Explainer`.
        every_n_train_steps: explain after every so many optimiser steps.
        every_n_epochs: explain at the end of every so many epochs. Where neither is given: every epoch.
        before_training: also explain before the first step, where `samples` are fixed.
        during_validation: also explain in every validation of `fit`, with the weights that are validated (averaged
            ones, where a callback averages them). `Trainer.validate` and `Trainer.test` always explain once.
        words: which words are explained, as `Explainer.explain` takes them; None: those that name an object of the
            sample, or all words of a sample without objects.
        captions: whether a sample's caption is explained, where it has one, rather than what the model says. A
            caption has the same words all the time, so that maps can be compared.
        metrics: metrics as `dcam evaluate` takes them, for words that name an object; None: those that it measures.
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
        options: further arguments of `Explainer`, such as `probe_layer` or `overrides`.

    Attributes:
        history: what was shown: for each moment stage, step, epoch, samples and mean scores. Kept in checkpoints.
        left_out: how often something was due and left out, because it would have taken too much of the time.
        failed: how often an explanation failed.

    Raises:
        ConfigurationError: a setting is wrong.

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
        **options: Any,
    ) -> None:
        for name, value in (("train_steps", every_n_train_steps), ("epochs", every_n_epochs)):
            if value is not None and value < 1:
                raise ConfigurationError(f"every_n_{name} is {value}: give at least 1, or None")
        if not callable(samples) and not len(samples):
            raise ConfigurationError(
                "there are no samples to explain: give at least one, or a function of the batch"
            )
        ContactSheet(max_frames)
        self._samples, self._model = samples, model
        self._explained_by = options if method is None else {"method": method, **options}
        self._every_n_train_steps = every_n_train_steps
        self._every_n_epochs = 1 if every_n_train_steps is None and every_n_epochs is None else every_n_epochs
        self._before_training, self._during_validation = before_training, during_validation
        self._metrics = metrics
        self._shown_how: dict[str, Any] = {
            "words": words,
            "captions": captions,
            "reliance": reliance,
            "deletion_intervals": deletion_intervals,
        }
        self._max_frames, self._strict, self._every_rank = max_frames, strict, every_rank
        self._budget = TimeBudget(max_time_fraction)
        self._shower: SampleShower | None = None
        self._notebook: Notebook | None = None
        self._last_step = -1
        self._sheets: dict[tuple[str, str], ContactSheet] = {}
        self.history: list[dict[str, Any]] = []
        self.left_out = self.failed = 0

    # -- when ------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to count the time."""
        self._budget.start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Explain the untrained model, unless the run is resumed."""
        self._last_step = trainer.global_step
        if self._before_training and trainer.global_step == 0 and not callable(self._samples):
            self._show(trainer, pl_module, "train", self._samples)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Explain if it is time."""
        step, stepped = trainer.global_step, trainer.global_step != self._last_step
        self._last_step = step
        by_step = self._every_n_train_steps is not None and stepped and step % self._every_n_train_steps == 0
        by_epoch = (
            self._every_n_epochs is not None
            and trainer.is_last_batch
            and (trainer.current_epoch + 1) % self._every_n_epochs == 0
        )
        if by_step or by_epoch:
            self._show(trainer, pl_module, "train", self._chosen(batch))

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
        if wanted and not trainer.sanity_checking and batch_idx == dataloader_idx == 0:
            self._show(trainer, pl_module, "validate", self._chosen(batch))

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
        if batch_idx == dataloader_idx == 0:
            self._show(trainer, pl_module, "test", self._chosen(batch))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the model and the loggers; say what was left out."""
        self._shower = self._notebook = None
        if self.left_out:
            _log.info(
                "%d explanations were left out to stay within max_time_fraction=%s: raise it, or explain less often",
                self.left_out,
                self._budget.max_fraction,
            )

    # -- what ------------------------------------------------------------------------------------------------

    def _chosen(self, batch: Any) -> Callable[[], Sequence[Sample]] | Sequence[Sample]:
        samples = self._samples
        return (lambda: samples(batch)) if callable(samples) else samples

    def _show(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        stage: str,
        samples: Callable[[], Sequence[Sample]] | Sequence[Sample],
    ) -> None:
        """Explain and log, on the ranks that must, within the time that there is."""
        everyone = isinstance(trainer.strategy, _SHARDED) if self._every_rank is None else self._every_rank
        if not everyone and not trainer.is_global_zero:
            return
        allowed = self._budget.allows
        if everyone:  # clocks differ: one decides for all, or some would wait for others for ever
            allowed = trainer.strategy.broadcast(allowed)
        if not allowed:
            self.left_out += 1
            return
        if self._shower is None:
            self._shower = self._made_for(module)
        with _profiler(trainer).profile("DiffusionCAM.explain"), self._budget.spending():
            try:
                with undisturbed(module):
                    chosen = samples() if callable(samples) else samples
                    if everyone and callable(samples):  # each rank has a batch of its own
                        chosen = trainer.strategy.broadcast(chosen)
                    shown = [self._shower.show(sample) for sample in chosen]
                    if trainer.is_global_zero:
                        self._keep(trainer, stage, shown)
            except Exception:
                self.failed += 1
                if self._strict:
                    raise
                _log.exception(
                    "explaining failed at step %d; training goes on (strict=True would end it)",
                    trainer.global_step,
                )

    def _made_for(self, module: L.LightningModule) -> SampleShower:
        """The method on the model that is trained."""
        model = self._model
        if isinstance(model, str):
            try:
                model = attrgetter(model)(module)
            except AttributeError as error:
                raise ConfigurationError(
                    f"{type(module).__name__} has no attribute {self._model!r}: `model` must name the one that holds "
                    "the adapter, or be the adapter, or a function that gives it"
                ) from error
        elif not isinstance(model, Adapter):
            model = model(module)
        if not isinstance(model, Adapter):
            raise ConfigurationError(
                f"`model` gives a {type(model).__name__} for {type(module).__name__}: an adapter is needed; "
                "`dcam_core.wrap_model` puts one around a model"
            )
        trained = {id(parameter) for parameter in module.parameters()}
        if any(id(parameter) not in trained for parameter in model.model.parameters()):
            raise ConfigurationError(
                f"the adapter's model has parameters that {type(module).__name__} does not have: another model would "
                "be explained than is trained; make it a submodule, and put the adapter around that same object"
            )
        explainer = Explainer(model, **self._explained_by)
        found = measures(explainer.manager.registries.metrics, self._metrics)
        return SampleShower(explainer, found, **self._shown_how)

    def _keep(self, trainer: L.Trainer, stage: str, shown: Sequence[ShownSample]) -> None:
        """Log what was shown, and remember it."""
        if self._notebook is None:
            self._notebook = Notebook(trainer)
        step, scores = trainer.global_step, mean_scores(shown)
        for sample in shown:
            for word in sample.words:
                name = tag("dcam", stage, sample.key, word.label)
                self._notebook.picture(name, _overlay(sample, word, step), step)
            sheet = self._sheets.setdefault((stage, sample.key), ContactSheet(self._max_frames))
            sheet.add(step, sample)
            name = tag("dcam", stage, sample.key, "contact-sheet")
            self._notebook.picture(name, sheet.draw(f"{sample.key}: {sample.answer}"), step)
        numbers = {tag("dcam", stage, name): value for name, value in scores.items()}
        numbers[tag("dcam", stage, "seconds")] = self._budget.spent
        self._notebook.numbers(numbers, step)
        self.history.append(
            {
                "stage": stage,
                "step": step,
                "epoch": trainer.current_epoch,
                "samples": [sample.key for sample in shown],
                "scores": scores,
            }
        )

    # -- checkpoints -----------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells callbacks with different settings apart in a checkpoint."""
        return self._generate_state_key(
            method=str(self._explained_by.get("method")),
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            during_validation=self._during_validation,
        )

    def state_dict(self) -> dict[str, Any]:
        """What was shown so far, with the frames of the contact sheets."""
        return {
            "history": [dict(item) for item in self.history],
            "left_out": self.left_out,
            "failed": self.failed,
            "sheets": {f"{stage}/{key}": sheet.state_dict() for (stage, key), sheet in self._sheets.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.history = [dict(item) for item in state_dict["history"]]
        self.left_out, self.failed = state_dict["left_out"], state_dict["failed"]
        self._sheets = {}
        for name, state in state_dict["sheets"].items():
            stage, _, key = name.partition("/")
            self._sheets[stage, key] = ContactSheet(self._max_frames)
            self._sheets[stage, key].load_state_dict(state)


def _profiler(trainer: L.Trainer) -> Profiler:
    """Lightning sets it and does not declare it."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    return profiler


def _overlay(sample: ShownSample, word: ShownWord, step: int) -> Image.Image:
    """The map of a word over its picture, as reports show it, with what was measured."""
    heat = stretch_map(word.map, display_size(*sample.picture.size))
    scores = ", ".join(f"{name} {value:.3g}" for name, value in list(word.scores.items())[:3])
    return rasterise(overlay_figure(sample.picture, heat, word.label, f"step {step:,}: {scores}"))
