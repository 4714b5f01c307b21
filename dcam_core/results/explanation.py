"""The result of an engine run: one heat map per target word, and all that is needed to read it.

An `Explanation` holds plain data on the CPU. It can be shown (`heatmap`, `figure`, `overlay`, `to_html`, a
notebook), kept (`save`) and restored (`load_explanation`) without the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dcam_core.errors import DcamError
from dcam_core.results.lookup import find_target, target_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ExplainedTarget", "Explanation", "Word", "load_explanation", "peak_cell", "stretch_map"]

_RANGE_TOLERANCE = 1e-5  # a map may leave [0, 1] by this much (rounding) and is clamped; beyond it is refused


@dataclass(frozen=True)
class Word:
    """A word of the answer, for display.

    Attributes:
        text: the word as it stands in the answer.
        start: index of its first character in the answer.
        stop: one past its last character, so that `answer[start:stop] == text`.
        positions: answer positions of its tokens, counted from the first generated token.
        step: the last denoising step (from 0) that committed one of its tokens; None if not recorded.
    """

    text: str
    start: int
    stop: int
    positions: tuple[int, ...]
    step: int | None


@dataclass(frozen=True)
class ExplainedTarget:
    """A word or phrase that was explained, with what the model knew when its map was made.

    Attributes:
        word: the word or phrase, as in "circle" or "red circle".
        positions: answer positions of its tokens.
        token_ids: vocabulary ids of its tokens.
        tokens: the same tokens as the tokenizer writes them.
        commit_steps: for each token, the denoising step (from 0) by which it was decided; -1 if none did.
        probed_steps: the recorded steps whose states were replayed; None stands for a state that never
            occurred in the run, such as that of "infill".
        state: the mask-step policy that chose them.
        probability: product of the probabilities with which its tokens were decided, in [0, 1].
        score: value of the gradient target, the number that was differentiated.
        notes: remarks for the reader, such as the reason why a map is empty.
        replayed_probability: product of the probabilities of its tokens at the replayed state, in [0, 1]; the
            same as `probability` where that is the state by which they were decided. None if not recorded.
    """

    word: str
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    commit_steps: tuple[int, ...]
    probed_steps: tuple[int | None, ...]
    state: str
    probability: float
    score: float
    notes: tuple[str, ...] = ()
    replayed_probability: float | None = None

    def __post_init__(self) -> None:
        per_token = (self.positions, self.token_ids, self.tokens, self.commit_steps)
        if len({len(values) for values in per_token}) != 1 or not self.positions:
            raise DcamError(
                f"target {self.word!r} has {len(self.positions)} positions, {len(self.token_ids)} token "
                f"ids, {len(self.tokens)} tokens and {len(self.commit_steps)} commit steps: "
                "give one of each per token"
            )
        if not 0.0 <= self.probability <= 1.0:
            raise DcamError(f"target {self.word!r} has probability {self.probability}: it must be in [0, 1]")
        if not math.isfinite(self.score):
            raise DcamError(f"target {self.word!r} has score {self.score}: it must be a finite number")

    @property
    def last_step(self) -> int | None:
        """The denoising step at which its last token was decided; None if a token never was."""
        return None if min(self.commit_steps) < 0 else max(self.commit_steps)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heat maps for words of one answer about one picture.

    Attributes:
        picture: the picture, RGB.
        prompt: what the model was asked.
        answer: what it answered, up to the stop sequence.
        words: the words of the answer in order of reading.
        targets: the words that were explained, one per map.
        raw: `[T, H, W]` float32, maps on the picture grid before any refiner: not normalised. The grid covers
            the whole picture; cell (0, 0) is its upper left corner.
        maps: `[T, H, W]` float32 in [0, 1], the refined maps on the same grid.
        settings: the merged configuration of method and sampler.
        seed: seed of the run.
        model: identity of the model (name, family, source, parameters, dtype, ...).
        versions: versions of dcam, of torch and of the plugins that took part.
        steps: the answer's text after each denoising step, or empty if not recorded.

    Raises:
        DcamError: if the parts do not fit each other, a map is not finite or leaves [0, 1], or a setting
            cannot be written as JSON.
    """

    picture: Image.Image
    prompt: str
    answer: str
    words: tuple[Word, ...]
    targets: tuple[ExplainedTarget, ...]
    raw: Tensor
    maps: Tensor
    settings: dict[str, Any]
    seed: int
    model: dict[str, Any]
    versions: dict[str, Any]
    steps: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("raw", "maps"):
            object.__setattr__(self, name, self._checked_maps(name, getattr(self, name)))
        if self.raw.shape != self.maps.shape:
            raise DcamError(f"raw maps are {list(self.raw.shape)} but maps are {list(self.maps.shape)}")
        low, high = self.maps.min().item(), self.maps.max().item()
        if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
            raise DcamError(
                f"maps have values from {low:.6g} to {high:.6g}: the last refiner must leave [0, 1]"
            )
        object.__setattr__(self, "maps", self.maps.clamp(0.0, 1.0))
        for word in self.words:
            if self.answer[word.start : word.stop] != word.text:
                found = self.answer[word.start : word.stop]
                raise DcamError(
                    f"word {word.text!r} is said to be answer[{word.start}:{word.stop}], which is {found!r}"
                )
        # Copies: an explanation must not change when the caller goes on using the objects it was made from.
        object.__setattr__(self, "picture", self.picture.convert("RGB"))
        for name in ("settings", "model", "versions"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))

    def _checked_maps(self, name: str, maps: Tensor) -> Tensor:
        if maps.ndim != 3 or len(maps) != len(self.targets) or maps.numel() == 0:
            raise DcamError(
                f"{name} has shape {list(maps.shape)}: it must be [targets, rows, columns] for "
                f"{len(self.targets)} targets, at least one"
            )
        maps = maps.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
        for target, one in zip(self.targets, maps, strict=True):
            if not one.isfinite().all():
                raise DcamError(
                    f"{name} of target {target.word!r} holds NaN or infinity: no map can be made from it"
                )
        return maps

    def __repr__(self) -> str:
        words = ", ".join(repr(target.word) for target in self.targets)
        count, rows, columns = self.maps.shape
        return f"<Explanation of {self.answer!r}: {count} maps of {rows} x {columns} for {words}>"

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

    def label(self, index: int) -> str:
        """Give the name of a target among its like: "circle", or "circle#2" where several share the word."""
        return target_label(self, index)

    def heatmap(self, target: str | int, *, occurrence: int | None = None) -> Tensor:
        """Give a target's map at the size of the picture.

        Args:
            target: word or index, as in `index`.
            occurrence: which of several, as in `index`.

        Returns:
            `[picture height, picture width]` float32 in [0, 1], bilinear between the centres of the cells.

        Raises:
            TargetError: as `index` does.
        """
        return stretch_map(self.maps[self.index(target, occurrence=occurrence)], self.picture.size)

    def peak(self, target: str | int, *, occurrence: int | None = None) -> tuple[float, float] | None:
        """Give the centre (x, y) of the highest cell in pixels of the picture; None for an empty map."""
        cell = peak_cell(self.maps[self.index(target, occurrence=occurrence)])
        if cell is None:
            return None
        rows, columns = self.maps.shape[1:]
        return (cell[1] + 0.5) * self.picture.width / columns, (cell[0] + 0.5) * self.picture.height / rows

    def figure(self, target: str | int, *, occurrence: int | None = None) -> Figure:
        """Draw picture, heat, word and colour bar as a matplotlib figure, without pyplot."""
        from dcam_core.results.report.overlay import display_size, overlay_figure, percent

        index = self.index(target, occurrence=occurrence)
        heat = stretch_map(self.maps[index], display_size(*self.picture.size))
        chosen = self.targets[index]
        step = chosen.last_step
        decided = "not decided in this run" if step is None else f"decided at step {step}"
        caption = f"{decided}, probability {percent(chosen.probability)}"
        return overlay_figure(self.picture, heat, self.label(index), caption)

    def overlay(self, target: str | int, *, occurrence: int | None = None) -> Image.Image:
        """Give the drawing of `figure` as an RGB picture."""
        from dcam_core.results.report.overlay import rasterise

        return rasterise(self.figure(target, occurrence=occurrence))

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


def stretch_map(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a map over a picture.

    Args:
        grid: `[rows, columns]` floating, the map; its cells divide the picture evenly.
        size: width and height in pixels.

    Returns:
        `[height, width]` of the same dtype, bilinear, in [0, 1].
    """
    width, height = size
    stretched = F.interpolate(grid[None, None], size=(height, width), mode="bilinear", align_corners=False)
    return stretched[0, 0].clamp(0.0, 1.0)


def peak_cell(grid: Tensor) -> tuple[int, int] | None:
    """Give row and column of the first highest cell of `[rows, columns]`; None if none is above zero."""
    if not (grid > 0).any():
        return None
    row, column = divmod(int(grid.argmax()), grid.shape[1])
    return row, column


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
