"""Maps of the same words over the course of training, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.overlay import blend, display_picture, rasterise
from dcam_core.training.showing import ShownSample

__all__ = ["ContactSheet"]

_TILE = 132  # longest side of a tile, in pixels
_GAP = 6
_MARGIN, _TOP = 12, 78  # above the tiles stand title and steps
_LETTER, _TITLE_LETTER = 8, 10  # width of a letter, in pixels
_DPI = 100


class ContactSheet:
    """One row per word, one column per moment, the picture in front.

    At most `max_frames` moments are kept. When there are more, the one goes whose neighbours are closest together, so
    that the first and the last stay and the others spread over the whole of training.

    Args:
        max_frames: how many moments are kept, at least 2.

    Raises:
        ConfigurationError: it is less.
    """

    def __init__(self, max_frames: int = 12) -> None:
        if max_frames < 2:
            raise ConfigurationError(
                f"max_frames is {max_frames}: at least 2, the first and the last, are kept"
            )
        self.max_frames = max_frames
        self._picture: Tensor | None = None
        self._frames: dict[int, dict[str, Tensor]] = {}

    @property
    def steps(self) -> tuple[int, ...]:
        """The training steps whose maps are kept, rising."""
        return tuple(sorted(self._frames))

    def add(self, step: int, sample: ShownSample) -> None:
        """Keep the maps of a moment; a second one of the same step replaces the first.

        If the picture is another one than before, the sheet begins anew.
        """
        width, height = sample.picture.size
        shrink = _TILE / max(width, height)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        picture = display_picture(sample.picture, size)
        pixels = _pixels(picture)
        if self._picture is None or not torch.equal(pixels, self._picture):
            self._picture, self._frames = pixels, {}
        self._frames[step] = {
            word.label: _pixels(blend(picture, stretch_map(word.map, size))) for word in sample.words
        }
        while len(self._frames) > self.max_frames:  # more than one, if a checkpoint was written with more
            steps = self.steps
            triples = zip(steps, steps[1:], steps[2:], strict=False)
            _, closest = min((after - before, at) for before, at, after in triples)
            del self._frames[closest]

    def draw(self, title: str) -> Image.Image:
        """The sheet as an RGB picture.

        Args:
            title: stands above it.

        Raises:
            ConfigurationError: nothing was added yet.
        """
        if self._picture is None:
            raise ConfigurationError(f"the contact sheet {title!r} is empty: add a moment first")
        steps = self.steps
        words = list(dict.fromkeys(word for step in steps for word in self._frames[step]))
        height, width, _ = self._picture.shape
        rows, columns = max(1, len(words)), 1 + len(steps)
        inner = rows * (height + _GAP), columns * (width + _GAP) + _GAP
        canvas = np.full((*inner, 3), 255, dtype=np.uint8)
        tiles = {(0, 0): self._picture}
        for column, step in enumerate(steps, start=1):
            for row, word in enumerate(words):
                if word in self._frames[step]:
                    tiles[row, column] = self._frames[step][word]
        for (row, column), tile in tiles.items():
            # The picture stands apart from the moments by a double gap.
            left, top = column * (width + _GAP) + _GAP * (column > 0), row * (height + _GAP)
            canvas[top : top + height, left : left + width] = tile.numpy()
        return self._framed(canvas, title, words, steps, (height, width))

    def _framed(
        self,
        canvas: np.ndarray[Any, np.dtype[np.uint8]],
        title: str,
        words: list[str],
        steps: tuple[int, ...],
        tile: tuple[int, int],
    ) -> Image.Image:
        """The tiles with title, words and steps."""
        left = 2 * _MARGIN + _LETTER * max((len(word) for word in words), default=0)
        height, width = _TOP + canvas.shape[0] + _GAP, left + canvas.shape[1] + _GAP
        width = max(width, 2 * _MARGIN + _TITLE_LETTER * len(title))
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        place = (left / width, _GAP / height, canvas.shape[1] / width, canvas.shape[0] / height)
        axes = figure.add_axes(place)
        axes.imshow(canvas, interpolation="none")
        axes.set_axis_off()
        top = height - _TOP
        figure.text(_MARGIN / width, 1 - 30 / height, title, size=12, color="#16161a")
        for row, word in enumerate(words):
            y = top - row * (tile[0] + _GAP) - tile[0] / 2
            figure.text(_MARGIN / width, y / height, word, size=10, color="#16161a", va="center")
        for column, step in enumerate(steps, start=1):
            x = left + column * (tile[1] + _GAP) + _GAP + tile[1] / 2
            label = f"step {step:,}" if column == 1 else f"{step:,}"
            figure.text(x / width, (top + 6) / height, label, size=9, color="#5c5c66", ha="center")
        return rasterise(figure)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, as checkpoints keep them."""
        frames = {step: dict(self._frames[step]) for step in self.steps}
        return {"max_frames": self.max_frames, "picture": self._picture, "frames": frames}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The other way round; `max_frames` stays what it is here."""
        self._picture = state["picture"]
        self._frames = {int(step): dict(tiles) for step, tiles in state["frames"].items()}


def _pixels(picture: Image.Image) -> Tensor:
    """[height, width, 3] uint8."""
    return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.uint8))
