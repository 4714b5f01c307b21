"""Heat over a picture: colours, blending, and a framed drawing with a colour bar.

Colours are matplotlib's "inferno", even to the eye and readable without colour vision. Opacity grows with the
map, so that the picture stays visible where a word has no evidence.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps, font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "blend",
    "display_picture",
    "display_size",
    "drawable",
    "heat_layer",
    "heat_palette",
    "lettering",
    "overlay_figure",
    "percent",
    "rasterise",
    "step_colour",
]

SMALLEST_SIDE, LARGEST_SIDE = 480, 1024  # longest side of a picture on display, in pixels
STRONGEST_OPACITY = 0.85  # where the map is 1
_DPI = 100
# For words in scripts that matplotlib's own font lacks; those that are installed are used, in this order.
_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Noto Sans",
    "Arial Unicode MS",
)


def percent(probability: float) -> str:
    """Write a probability for people: "97.3 %"; never a rounded 0 % or 100 % for what is neither."""
    if 0 < probability < 0.001:
        return "< 0.1 %"
    if 0.999 < probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def display_size(width: int, height: int, *, largest: int = LARGEST_SIDE) -> tuple[int, int]:
    """Choose the size at which a picture is shown.

    Small pictures grow by a whole factor until the longest side has at least 480 pixels (so that every pixel
    grows equally), large ones shrink to `largest`.

    Args:
        width: width of the picture in pixels.
        height: height of the picture in pixels.
        largest: bound on the longest side in pixels, at least 960.

    Returns:
        Width and height in pixels.
    """
    longest = max(width, height)
    if longest < SMALLEST_SIDE:
        factor = -(-SMALLEST_SIDE // longest)
        return factor * width, factor * height
    shrink = min(1.0, largest / longest)
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def display_picture(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to `size` (width, height) for display: RGB, bicubic up, Lanczos down."""
    grows = size[0] > picture.width
    return picture.convert("RGB").resize(
        size, Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS
    )


@cache
def heat_palette() -> NDArray[np.uint8]:
    """The colours of map values 0, 1/255, ..., 1: `[256, 4]` uint8 RGBA, opacity growing from 0."""
    value = np.linspace(0.0, 1.0, 256)
    # From 0.25 on: inferno's first quarter is near black and would darken the picture, not colour it.
    colours = colormaps["inferno"](0.25 + 0.75 * value)
    colours[:, 3] = STRONGEST_OPACITY * value**0.75
    palette: NDArray[np.uint8] = np.rint(255 * colours).astype(np.uint8)
    palette.setflags(write=False)
    return palette


def step_colour(step: int, last: int) -> str:
    """Colour of a denoising step, early (violet) to late (yellow): viridis is safe for colour-blind eyes.

    Args:
        step: the step, from 0.
        last: the step at which the scale ends.
    """
    red, green, blue, _ = colormaps["viridis"](0.12 + 0.83 * step / max(1, last), bytes=True)
    return f"#{red:02x}{green:02x}{blue:02x}"


def heat_layer(heat: Tensor) -> Image.Image:
    """Colour a map as a transparent layer to lie over the picture.

    Args:
        heat: `[height, width]` floating in [0, 1].

    Returns:
        A palette picture (mode "P") with an opacity per colour: a quarter of RGBA's size.
    """
    palette = heat_palette()
    values = (heat.detach().cpu().double() * 255).round().numpy().astype(np.uint8)
    layer = Image.fromarray(values)
    layer.putpalette(palette[:, :3].tobytes(), "RGB")
    layer.info["transparency"] = palette[:, 3].tobytes()
    return layer


def blend(picture: Image.Image, heat: Tensor) -> Image.Image:
    """Lay a map over a picture.

    Args:
        picture: the picture, at the size of `heat`.
        heat: `[height, width]` floating in [0, 1].

    Returns:
        RGB picture of the same size.
    """
    layer = heat_layer(heat).convert("RGBA")
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def overlay_figure(picture: Image.Image, heat: Tensor, word: str, caption: str = "") -> Figure:
    """Draw picture and heat with the word above and a colour bar beside it.

    Args:
        picture: the picture, of any size.
        heat: `[height, width]` floating in [0, 1], at the size for display (`display_size`).
        word: title.
        caption: a smaller second line.

    Returns:
        A matplotlib figure in which one pixel of `heat` is one pixel at the figure's own resolution.
    """
    height, width = heat.shape
    left, right, bottom, top = 24, 86, 24, 70
    inner_width, inner_height = (
        max(width, 260),
        max(height, 160),
    )  # room for title and bar round a narrow picture
    total_width, total_height = inner_width + left + right, inner_height + bottom + top
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def box(x: float, y: float, box_width: float, box_height: float) -> tuple[float, float, float, float]:
        return x / total_width, y / total_height, box_width / total_width, box_height / total_height

    picture_left = left + (inner_width - width) // 2
    axes = figure.add_axes(box(picture_left, bottom + (inner_height - height) // 2, width, height))
    axes.imshow(np.asarray(blend(display_picture(picture, (width, height)), heat)), interpolation="none")
    axes.set_axis_off()

    bar = figure.add_axes(box(left + inner_width + 20, bottom, 14, inner_height))
    # The colours as they lie over the picture, transparency included, hence on grey and not plain.
    ramp = blend(Image.new("RGB", (1, 256), "#b9b9bd"), torch.linspace(1.0, 0.0, 256)[:, None])
    bar.imshow(np.asarray(ramp), extent=(0, 1, 0, 1), aspect="auto")
    bar.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.tick_params(labelsize=9, length=3, color="#777777", labelcolor="#444444")
    for spine in bar.spines.values():
        spine.set_edgecolor("#bbbbbb")

    room = total_width - left - 16
    lines = ((word, 15, "#16161a", total_height - 36), (caption, 9.5, "#5c5c66", total_height - 57))
    for text, points, colour, y in lines:
        drawn = figure.text(
            left / total_width,
            y / total_height,
            drawable(text),
            fontsize=points,
            color=colour,
            family=[name for name, _ in lettering()],
            parse_math=False,
        )
        _fit(drawn, room)
    return figure


def rasterise(figure: Figure) -> Image.Image:
    """Give a figure as an RGB picture at its own resolution."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]


def _fit(text: Text, room: float) -> None:
    """Cut a line that is wider than `room` pixels and end it with an ellipsis."""
    while (extent := text.get_window_extent().width) > room:
        content = text.get_text().removesuffix("…")
        text.set_text(content[: min(len(content) - 1, int(len(content) * room / extent))].rstrip() + "…")


@cache
def lettering() -> tuple[tuple[str, frozenset[int]], ...]:
    """Families to draw with, each with the code points it has."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _FURTHER_FONTS if name in installed)]
    return tuple((name, frozenset(FT2Font(font_manager.findfont(name)).get_charmap())) for name in families)


def drawable(text: str) -> str:
    """Make one line of it, with a white square for every character that no font at hand can draw."""
    known = frozenset().union(*(points for _, points in lettering()))
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(character if ord(character) in known else "□" for character in line)
