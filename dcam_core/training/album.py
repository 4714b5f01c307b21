"""What becomes of what was shown: loggers get it, contact sheets and a history keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from PIL import Image

from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.overlay import display_size, overlay_figure, rasterise
from dcam_core.training.contact_sheet import ContactSheet
from dcam_core.training.notebook import Notebook, tag
from dcam_core.training.showing import ShownSample, ShownWord, mean_scores

__all__ = ["Album"]


class Album:
    """Everything that was shown in a training.

    Args:
        name: the first part of every tag.
        max_frames: how many moments a contact sheet keeps, at least 2.

    Attributes:
        history: for each moment stage, step, epoch, samples and mean scores.
        sheets: the contact sheet of every (stage, key of a sample).

    Raises:
        ConfigurationError: `max_frames` is less.
    """

    def __init__(self, name: str, max_frames: int) -> None:
        self._name, self._max_frames = name, ContactSheet(max_frames).max_frames
        self._notebook: Notebook | None = None
        self.clear()

    def clear(self) -> None:
        """Nothing was shown yet."""
        self.history: list[dict[str, Any]] = []
        self.sheets: dict[tuple[str, str], ContactSheet] = {}

    def close(self) -> None:
        """Let go of the loggers."""
        self._notebook = None

    def add(
        self, trainer: L.Trainer, stage: str, shown: Sequence[ShownSample], numbers: Mapping[str, float]
    ) -> None:
        """Log what was shown, and remember it; on rank zero only.

        Args:
            trainer: whose loggers get it.
            stage: "train", "validate" or "test".
            shown: the samples of this moment.
            numbers: what is logged beside their mean scores.
        """
        if self._notebook is None:
            self._notebook = Notebook(trainer)
        step, scores = trainer.global_step, mean_scores(shown)
        for sample in shown:
            for word in sample.words:
                name = tag(self._name, stage, sample.key, word.label)
                self._notebook.picture(name, _overlay(sample, word, step), step)
            sheet = self.sheets.setdefault((stage, sample.key), ContactSheet(self._max_frames))
            sheet.add(step, sample)
            name = tag(self._name, stage, sample.key, "contact-sheet")
            self._notebook.sheet(name, sheet.draw(f"{sample.key}: {sample.answer}"), step)
        logged = {tag(self._name, stage, name): value for name, value in {**scores, **numbers}.items()}
        self._notebook.numbers(logged, step)
        self.history.append(
            {
                "stage": stage,
                "step": step,
                "epoch": trainer.current_epoch,
                "samples": [sample.key for sample in shown],
                "scores": scores,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, as checkpoints keep them."""
        return {
            "history": [dict(item) for item in self.history],
            "sheets": {f"{stage}/{key}": sheet.state_dict() for (stage, key), sheet in self.sheets.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The other way round; `max_frames` stays what it is here."""
        self.clear()
        self.history = [dict(item) for item in state["history"]]
        for name, sheet in state["sheets"].items():
            stage, _, key = name.partition("/")
            self.sheets[stage, key] = ContactSheet(self._max_frames)
            self.sheets[stage, key].load_state_dict(sheet)


def _overlay(sample: ShownSample, word: ShownWord, step: int) -> Image.Image:
    """The map of a word over its picture, as reports show it, with what was measured."""
    heat = stretch_map(word.map, display_size(*sample.picture.size))
    scores = ", ".join(f"{name} {value:.3g}" for name, value in list(word.scores.items())[:3])
    return rasterise(overlay_figure(sample.picture, heat, word.label, f"step {step:,}: {scores}"))
