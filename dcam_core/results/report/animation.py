"""A word's way through the denoising as an animated GIF: its heat, the answer as it is written, its probability.

Every frame has the size and the places of the others: a word that is not written yet keeps its room in the answer.
All frames share one palette without dithering, so that what stays the same stays the same in the file and does not
flicker. Equal explanations give equal bytes.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageEnhance

from dcam_core.errors import SavedExplanationError, UsageError
from dcam_core.results.explanation import Explanation
from dcam_core.results.over_time import OverTime
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.lettering import draw_text, text_width
from dcam_core.results.report.overlay import blend, display_picture, percent, step_colour
from dcam_core.results.words import Word

__all__ = ["render_animation", "write_animation"]

_WIDTH, _MARGIN, _GAP = 480, 20, 8  # pixels; the gap is between pictures that stand side by side
_HIGHEST = 288  # pixels of a picture
_SATURATION = (
    0.45  # of the picture: heat stands out from red and yellow things, which keep their colours for the eye
)
_LEVELS = 64  # of heat: what hardly changes from frame to frame does not change at all
_FINER = 2  # lines and letters are drawn so much larger, and reduced: smooth edges
_STRIP = 40  # pixels; how much the colours of heat and curve weigh in the palette
_PALETTE = 255  # colours; one of 256 stands for "as in the frame before"
_INK, _SOFT, _LINE, _BLANK, _ACCENT, _PAPER = "#1c1c21", "#5d5d68", "#d9d9d5", "#e9e9e6", "#2f5d9b", "#ffffff"
_AHEAD, _WRITTEN = (
    "#b9c8dd",
    "#dfe8f5",
)  # the part of a curve that is still to come; behind the word once it stands
_LINE_HEIGHT, _LETTERS = 31, 17
_CURVE = 84  # height in pixels
_RUN, _SHORTEST, _LONGEST, _HELD = 9000, 120, 600, 3000  # milliseconds: whole run, a frame, the last one


def write_animation(explanation: Explanation, index: int, path: Path) -> Path:
    """Write the animation of a target.

    Raises:
        UsageError: the explanation has nothing over time.
        SavedExplanationError: the file cannot be written.
    """
    animation = render_animation(explanation, index)
    try:
        path.write_bytes(animation)
    except OSError as error:
        raise SavedExplanationError(
            f"the animation cannot be written to {path}: {error.strerror}; choose a file in a folder that exists and "
            "that you may write to"
        ) from error
    return path


def render_animation(explanation: Explanation, index: int) -> bytes:
    """The animation of a target as the bytes of a GIF, which goes round for ever and rests at the finished answer.

    Args:
        explanation: one with `over_time`.
        index: index of the target.

    Raises:
        UsageError: the explanation has nothing over time.
    """
    over_time = explanation.over_time
    if over_time is None:
        raise UsageError(
            "this explanation has nothing over time: make it with explain(..., over_time=True), or `dcam explain "
            "--animate`"
        )
    scene = _Scene(explanation, over_time, index)
    frames = [scene.frame(number) for number in range(len(over_time.steps))]
    palette = _palette(frames)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = min(_LONGEST, max(_SHORTEST, _RUN // len(drawn) // 10 * 10))
    file = io.BytesIO()
    drawn[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=drawn[1:],
        duration=[each] * (len(drawn) - 1) + [_HELD],
        loop=0,
        optimize=False,
    )
    return file.getvalue()


def _palette(frames: list[Image.Image]) -> Image.Image:
    """A picture with the colours of all frames: some of them from first to last, and the heat.

    Colours are chosen by how much of the picture they cover. Heat covers little of it, and is what is to be seen: it
    therefore has strips of its own, over dark, middling and light ground, and so have the colours of the curve.
    """
    chosen = [frames[round(i * (len(frames) - 1) / 5)] for i in range(6)]
    width, height = frames[0].size
    together = Image.new("RGB", (width * len(chosen), height + 4 * _STRIP))
    for number, frame in enumerate(chosen):
        together.paste(frame, (number * width, 0))
    swatches = (_ACCENT, _AHEAD, _WRITTEN, _LINE, _SOFT)
    each = together.width // len(swatches)
    for number, colour in enumerate(swatches):
        together.paste(colour, (number * each, height, (number + 1) * each, height + _STRIP))
    heat = torch.linspace(0.1, 1.0, together.width).expand(_STRIP, -1)
    for number, ground in enumerate(("#404040", "#808080", "#c0c0c0")):
        strip = blend(Image.new("RGB", (together.width, _STRIP), ground), heat)
        together.paste(strip, (0, height + (number + 1) * _STRIP))
    return together.quantize(_PALETTE, Image.Quantize.MEDIANCUT)


@dataclass(frozen=True)
class _Placed:
    """A word of the answer where it is drawn: left end, base line and width, in pixels."""

    word: Word
    x: float
    y: float
    width: float


class _Scene:
    """What all frames of an animation share, and how one is drawn."""

    def __init__(self, explanation: Explanation, over_time: OverTime, index: int) -> None:
        self._explanation, self._over_time, self._index = explanation, over_time, index
        self._target = explanation.targets[index]
        self._label = explanation.label(index)
        self._probabilities: list[float] = over_time.probabilities[:, index].tolist()
        self._commit = over_time.commit_steps[index]
        self._sizes = _side_by_side([part.picture.size for part in explanation.pictures])
        self._pictures = [
            ImageEnhance.Color(display_picture(part.picture, size)).enhance(_SATURATION)
            for part, size in zip(explanation.pictures, self._sizes, strict=True)
        ]
        self._pictures_top = 64
        answer_top = self._pictures_top + max(height for _, height in self._sizes) + 10
        self._words = _laid_out(explanation, answer_top + _LINE_HEIGHT - 10)
        self._curve_top = max((item.y for item in self._words), default=answer_top) + 46
        self._height = math.ceil(self._curve_top + _CURVE + 30)

    def frame(self, number: int) -> Image.Image:
        """The frame of one step, by its number among the steps that are shown."""
        size = (_WIDTH * _FINER, self._height * _FINER)
        large = Image.new("RGB", size, _PAPER)
        self._draw(_Pen(ImageDraw.Draw(large)), number)
        frame = large.reduce(_FINER)
        x = (_WIDTH - sum(width for width, _ in self._sizes) - _GAP * (len(self._sizes) - 1)) // 2
        moving = self._over_time.pictures
        for picture, part in zip(self._pictures, moving, strict=True):
            heat = stretch_map(part.maps[number, self._index], picture.size)
            frame.paste(blend(picture, (heat * _LEVELS).round() / _LEVELS), (x, self._pictures_top))
            x += picture.width + _GAP
        return frame

    def _draw(self, pen: _Pen, number: int) -> None:
        step = self._over_time.steps[number]
        right = _WIDTH - _MARGIN
        finished = step == self._over_time.taken
        pen.text(right, 36, "finished" if finished else f"step {step}", 17, _INK, bold=True, right=True)
        pen.text(right, 54, f"of {self._over_time.taken} steps", 12, _SOFT, right=True)
        pen.text(_MARGIN, 40, _shortened(self._label, 26, 300), 26, _INK, bold=True)
        pen.text(_MARGIN, 56, self._state(step), 12, _ACCENT if step == self._commit else _SOFT)
        for item in self._words:
            self._draw_word(pen, item, step)
        self._draw_curve(pen, number)

    def _state(self, step: int) -> str:
        """What becomes of the word at a step, for people."""
        if self._commit is None:
            return "not decided in this run"
        if step == self._commit:
            return "decided at this step"
        return "not yet decided" if step < self._commit else f"decided at step {self._commit}, hidden again"

    def _draw_word(self, pen: _Pen, item: _Placed, step: int) -> None:
        own = set(item.word.positions) & set(self._target.positions)
        decided = item.word.step is None or item.word.step < step
        left, right, top, bottom = item.x, item.x + item.width, item.y - 18, item.y + 8
        if own:
            pen.box(
                left - 4, top - 1, right + 4, bottom + 1, fill=_WRITTEN if decided else _PAPER, line=_ACCENT
            )
        elif not decided:
            pen.box(left, top + 2, right, bottom - 2, fill=_BLANK)
        if decided:
            pen.text(left, item.y, item.word.text, _LETTERS, _INK)
            if item.word.step is not None and not own:
                colour = step_colour(item.word.step, self._over_time.taken - 1)
                pen.line([(left, item.y + 6), (right, item.y + 6)], colour, 2.5)

    def _draw_curve(self, pen: _Pen, number: int) -> None:
        steps, top = self._over_time.steps, self._curve_top
        left, right, bottom = _MARGIN + 44, _WIDTH - _MARGIN - 86, top + _CURVE

        def across(step: int) -> float:
            return left + (step - steps[0]) / max(1, steps[-1] - steps[0]) * (right - left)

        def place(at: int) -> tuple[float, float]:
            return across(steps[at]), bottom - self._probabilities[at] * _CURVE

        for value, name in ((1.0, "100 %"), (0.0, "0 %")):
            y = bottom - value * _CURVE
            pen.line([(left, y), (right, y)], _LINE, 1)
            pen.text(left - 7, y + 4, name, 11, _SOFT, right=True)
        known = [at for at in range(len(steps)) if not math.isnan(self._probabilities[at])]
        if self._commit is not None:
            x = across(self._commit)
            for y in range(round(top), round(bottom), 6):
                pen.line([(x, y), (x, min(y + 3, bottom))], _SOFT, 1)
            # The label keeps within the frame, and clear of the axis.
            name = f"decided, step {self._commit}"
            half = text_width(name, 11) / 2
            pen.text(min(max(x, left + half), right - half) - half, bottom + 17, name, 11, _SOFT)
        pen.line([place(at) for at in known if at >= number], _AHEAD, 2.5)
        past = [place(at) for at in known if at <= number]
        pen.line(past, _ACCENT, 2.5)
        value = self._probabilities[number]
        if math.isnan(value):
            pen.text(right + 12, bottom - _CURVE / 2, "not asked", 12, _SOFT)
        else:
            x, y = past[-1]
            pen.dot(x, y, 5, _ACCENT)
            pen.text(right + 14, min(max(y + 6, top + 6), bottom), percent(value), 15, _INK, bold=True)


class _Pen:
    """Draws in pixels of the finished frame on a canvas that is `_FINER` times larger."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._canvas = draw

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        colour: str,
        *,
        bold: bool = False,
        right: bool = False,
    ) -> None:
        place = (x * _FINER, y * _FINER)
        draw_text(self._canvas, place, text, size * _FINER, colour, bold=bold, right=right)

    def line(self, points: list[tuple[float, float]], colour: str, width: float) -> None:
        if len(points) < 2:
            return
        larger = [(x * _FINER, y * _FINER) for x, y in points]
        self._canvas.line(larger, colour, round(width * _FINER), joint="curve")

    def box(
        self, left: float, top: float, right: float, bottom: float, *, fill: str, line: str | None = None
    ) -> None:
        corners = [value * _FINER for value in (left, top, right, bottom)]
        self._canvas.rounded_rectangle(corners, 5 * _FINER, fill, line, width=2 * _FINER if line else 0)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        for size, fill in ((radius + 1.5, _PAPER), (radius, colour)):
            corners = [(value * _FINER) for value in (x - size, y - size, x + size, y + size)]
            self._canvas.ellipse(corners, fill)


def _side_by_side(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sizes in pixels at which pictures of some sizes stand side by side, equally high, within the frame."""
    room = _WIDTH - 2 * _MARGIN - _GAP * (len(sizes) - 1)
    height = min(_HIGHEST, room / sum(width / height for width, height in sizes))
    return [(max(1, int(width / own * height)), max(1, round(height))) for width, own in sizes]


def _laid_out(explanation: Explanation, first_line: float) -> list[_Placed]:
    """The answer's words in lines; what stands between two words is the space between them."""
    placed: list[_Placed] = []
    space = text_width(" ", _LETTERS) + 6
    x, y, stop = float(_MARGIN), first_line, 0
    for word in sorted(explanation.words, key=lambda word: word.start):
        width = text_width(word.text, _LETTERS)
        if placed and word.start > stop:
            x += space
        if x > _MARGIN and x + width > _WIDTH - _MARGIN:
            x, y = float(_MARGIN), y + _LINE_HEIGHT
        placed.append(_Placed(word, x, y, width))
        x, stop = x + width, word.stop
    return placed


def _shortened(text: str, size: float, room: float) -> str:
    """A line of bold text, cut where it is too wide."""
    while text_width(text, size, bold=True) > room:
        text = text.removesuffix("…")[:-1].rstrip() + "…"
    return text
