"""The result of an engine run: heat maps for words of an answer, and all that is needed to read them.

An `Explanation` holds plain data on the CPU. It can be shown (`heatmap`, `figure`, `overlay`, `to_html`, a
notebook), kept (`save`) and restored (`load_explanation`) without the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from dcam_core.errors import DcamError
from dcam_core.results.lookup import find_target, target_label
from dcam_core.results.over_time import OverTime
from dcam_core.results.picture_maps import PictureMaps, choose_picture, peak_cell, stretch_map
from dcam_core.results.reliance import VisualReliance, WordReliance
from dcam_core.results.words import ExplainedTarget, Word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ExplainedTarget",
    "Explanation",
    "OverTime",
    "PictureMaps",
    "VisualReliance",
    "Word",
    "load_explanation",
    "peak_cell",
    "stretch_map",
]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heat maps for words of one answer, over every picture of the prompt.

    With one picture, `picture`, `raw` and `maps` are its own. With several, every target has one map per
    picture: take `pictures[0].maps`, or say `heatmap("circle", picture=0)`. The maps of a target share one
    scale, so that a picture without evidence for a word stays cold.

    Attributes:
        pictures: each picture with its raw and its refined maps, in the order of the prompt.
        prompt: what the model was asked.
        answer: what it answered, up to the stop sequence.
        words: the words of the answer in order of reading.
        targets: the words that were explained, one per map.
        settings: the merged configuration of method and sampler.
        seed: seed of the run.
        model: identity of the model (name, family, source, parameters, dtype, ...).
        versions: versions of dcam, of torch and of the plugins that took part.
        steps: the answer's text after each denoising step, or empty if not recorded.
        reliance: how much every word depends on the picture; None if it was not measured. There are no targets
            where no word was asked for and none depends on the picture.
        over_time: the targets over the denoising, their maps and probabilities at the steps; None if that was not
            asked for.

    Raises:
        DcamError: if the parts do not fit each other, a map is not finite or leaves [0, 1], or a setting
            cannot be written as JSON.
    """

    pictures: tuple[PictureMaps, ...]
    prompt: str
    answer: str
    words: tuple[Word, ...]
    targets: tuple[ExplainedTarget, ...]
    settings: dict[str, Any]
    seed: int
    model: dict[str, Any]
    versions: dict[str, Any]
    steps: tuple[str, ...] = field(default=())
    reliance: VisualReliance | None = None
    over_time: OverTime | None = None

    def __post_init__(self) -> None:
        if not self.pictures:
            raise DcamError("an explanation needs at least one picture with its maps: none was given")
        several = len(self.pictures) > 1
        # Copies: an explanation must not change when the caller goes on using the objects it was made from.
        checked = tuple(
            part.checked(self.targets, f"picture {number}: " if several else "")
            for number, part in enumerate(self.pictures)
        )
        object.__setattr__(self, "pictures", checked)
        if self.over_time is not None:
            object.__setattr__(self, "over_time", self.over_time.checked(self.targets, len(checked)))
        for word in self.words:
            if self.answer[word.start : word.stop] != word.text:
                found = self.answer[word.start : word.stop]
                raise DcamError(
                    f"word {word.text!r} is said to be answer[{word.start}:{word.stop}], which is {found!r}"
                )
        for name in ("settings", "model", "versions"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))

    def __repr__(self) -> str:
        words = ", ".join(repr(target.word) for target in self.targets)
        grids = ", ".join(f"{part.maps.shape[1]} x {part.maps.shape[2]}" for part in self.pictures)
        over = f" over {len(self.pictures)} pictures" if len(self.pictures) > 1 else ""
        return f"<Explanation of {self.answer!r}: {len(self.targets)} maps of {grids}{over} for {words}>"

    @property
    def picture(self) -> Image.Image:
        """The picture, RGB, where there is one.

        Raises:
            UsageError: there are several.
        """
        return choose_picture(self.pictures, None, "pictures[0].picture").picture

    @property
    def raw(self) -> Tensor:
        """`[T, H, W]` float32, maps of the only picture before any refiner; see `PictureMaps`.

        Raises:
            UsageError: there are several pictures.
        """
        return choose_picture(self.pictures, None, "pictures[0].raw").raw

    @property
    def maps(self) -> Tensor:
        """`[T, H, W]` float32 in [0, 1], refined maps of the only picture; see `PictureMaps`.

        Raises:
            UsageError: there are several pictures.
        """
        return choose_picture(self.pictures, None, "pictures[0].maps").maps

    def index(self, target: str | int, *, occurrence: int | None = None) -> int:
        """Find which map belongs to a target.

        Args:
            target: a target's word, its n-th occurrence in the answer ("circle#2"), or an index.
            occurrence: the n of "#n", given apart.

        Returns:
            The index into `targets`, `maps` and `raw`.

        Raises:
            TargetError: if there is no such target, or the word fits several and it is not said which.
        """
        return find_target(self, target, occurrence)

    @property
    def rather_than(self) -> str | None:
        """Against what the targets are contrasted, as the user named it; None: their maps are of themselves alone."""
        target = self.settings.get("gradient_target")
        against = target.get("against") if isinstance(target, Mapping) else None
        return None if against is None else str(against)

    def label(self, index: int) -> str:
        """Give the name of a target among its like: "circle", or "circle#2" where several share the word."""
        return target_label(self, index)

    def heatmap(
        self, target: str | int, *, occurrence: int | None = None, picture: int | None = None
    ) -> Tensor:
        """Give a target's map at the size of the picture.

        Args:
            target: word or index, as in `index`.
            occurrence: which of several, as in `index`.
            picture: which of several pictures, counted from 0.

        Returns:
            `[picture height, picture width]` float32 in [0, 1], bilinear between the centres of the cells.

        Raises:
            TargetError: as `index` does.
            UsageError: there are several pictures and it is not said which, or there is no such picture.
        """
        index = self.index(target, occurrence=occurrence)
        return choose_picture(self.pictures, picture, "heatmap(..., picture=0)").heatmap(index)

    def peak(
        self, target: str | int, *, occurrence: int | None = None, picture: int | None = None
    ) -> tuple[float, float] | None:
        """Give the centre (x, y) of the highest cell in pixels of the picture; None for an empty map.

        Arguments and errors are those of `heatmap`.
        """
        index = self.index(target, occurrence=occurrence)
        return choose_picture(self.pictures, picture, "peak(..., picture=0)").peak(index)

    def evidence_shares(self, target: str | int, *, occurrence: int | None = None) -> tuple[float, ...]:
        """Say which share of a target's evidence lies in which picture.

        Evidence is what speaks for the word: the positive part of the raw map, summed over its cells. A
        picture that was shown with more tokens has more cells, and counts accordingly.

        Args:
            target: word or index, as in `index`.
            occurrence: which of several, as in `index`.

        Returns:
            One number in [0, 1] per picture. They sum to 1, or are all 0 where nothing spoke for the word.

        Raises:
            TargetError: as `index` does.
        """
        index = self.index(target, occurrence=occurrence)
        evidence = torch.stack([part.raw[index].double().clamp(min=0).sum() for part in self.pictures])
        return tuple((evidence / evidence.sum().where(evidence.sum() > 0, 1)).tolist())

    def reliance_of(self, positions: Sequence[int]) -> WordReliance | None:
        """How much the word at some answer positions depends on the picture; None if that was not measured."""
        return None if self.reliance is None else self.reliance.of(positions)

    def figure(
        self, target: str | int, *, occurrence: int | None = None, picture: int | None = None
    ) -> Figure:
        """Draw picture, heat, word and colour bar as a matplotlib figure, without pyplot.

        Arguments and errors are those of `heatmap`.
        """
        from dcam_core.results.report.overlay import display_size, overlay_figure, percent

        index = self.index(target, occurrence=occurrence)
        part = choose_picture(self.pictures, picture, "figure(..., picture=0)")
        heat = stretch_map(part.maps[index], display_size(*part.picture.size))
        chosen = self.targets[index]
        step = chosen.last_step
        decided = "not decided in this run" if step is None else f"decided at step {step}"
        caption = f"{decided}, probability {percent(chosen.probability)}"
        title = self.label(index)
        if len(self.pictures) > 1:
            number = self.pictures.index(part)
            title = f"{title}, picture {number}"
            caption = f"{percent(self.evidence_shares(index)[number])} of the evidence; {caption}"
        return overlay_figure(part.picture, heat, title, caption)

    def overlay(
        self, target: str | int, *, occurrence: int | None = None, picture: int | None = None
    ) -> Image.Image:
        """Give the drawing of `figure` as an RGB picture."""
        from dcam_core.results.report.overlay import rasterise

        return rasterise(self.figure(target, occurrence=occurrence, picture=picture))

    def to_gif(self, target: str | int, path: str | Path, *, occurrence: int | None = None) -> Path:
        """Write a target's way through the denoising as an animated GIF, and give the file's path.

        Args:
            target: word or index, as in `index`.
            path: the file.
            occurrence: which of several, as in `index`.

        Raises:
            TargetError: as `index` does.
            UsageError: the explanation has nothing over time.
            SavedExplanationError: if the file cannot be written.
        """
        from dcam_core.results.report.animation import write_animation

        return write_animation(self, self.index(target, occurrence=occurrence), Path(path))

    def to_html(self, path: str | Path) -> Path:
        """Write the report, one self-contained page, and give its path.

        Raises:
            SavedExplanationError: if the file cannot be written.
        """
        from dcam_core.results.report.html import write_report

        return write_report(self, Path(path))

    def _repr_html_(self) -> str:
        from dcam_core.results.report.html import render_fragment

        return render_fragment(self)

    def save(self, folder: str | Path) -> Path:
        """Write everything into a new folder, whole or not at all, and give its path.

        See `dcam_core.results.storage` for the files.

        Raises:
            SavedExplanationError: if the folder exists and is not empty, or cannot be written.
        """
        from dcam_core.results.storage import save_explanation

        return save_explanation(self, Path(folder))


def load_explanation(folder: str | Path) -> Explanation:
    """Read what `Explanation.save` wrote.

    Raises:
        SavedExplanationError: if a file is missing or damaged, or the folder has another schema version.
    """
    from dcam_core.results.storage import read_explanation

    return read_explanation(Path(folder))


def _plain(value: Any, where: str) -> Any:
    """Copy JSON data (tuples become lists) and refuse anything that JSON cannot restore."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DcamError(
                    f"{where} has the key {key!r}: keys must be text so that the result can be saved"
                )
        return {key: _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    # Subclasses (torch.__version__, enums, numpy's float64) become what JSON would bring back.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise DcamError(
        f"{where} is {value!r} ({type(value).__name__}): only text, finite numbers, true, false, null, "
        "lists and mappings can be saved; give it as one of these"
    )
