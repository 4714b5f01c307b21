"""Text on a Pillow canvas, in any script for which a font is at hand, with the fonts of the overlays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby

from matplotlib import font_manager
from PIL import ImageDraw, ImageFont

from dcam_core.results.report.overlay import drawable, lettering

__all__ = ["draw_text", "text_width"]


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """How wide one line of text is, in pixels.

    Args:
        text: the text; what no font can draw counts as a white square.
        size: of the letters, in pixels.
        bold: whether they are bold.
    """
    return sum(_font(family, size, bold).getlength(part) for family, part in _runs(text))


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    colour: str,
    *,
    bold: bool = False,
    right: bool = False,
) -> None:
    """Draw one line of text.

    Args:
        draw: the canvas.
        place: x and y of the left end of the base line, in pixels.
        text: as in `text_width`.
        size: as there.
        colour: of the letters.
        bold: as there.
        right: whether x is the right end.
    """
    x, y = place
    if right:
        x -= text_width(text, size, bold=bold)
    for family, part in _runs(text):
        font = _font(family, size, bold)
        draw.text((x, y), part, fill=colour, font=font, anchor="ls")
        x += font.getlength(part)


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of one font, each with the font's family: for every character the first that has it."""

    def family(character: str) -> str:
        return next(name for name, points in lettering() if ord(character) in points)

    for name, characters in groupby(drawable(text), key=family):
        yield name, "".join(characters)


@cache
def _font(family: str, size: float, bold: bool) -> ImageFont.FreeTypeFont:
    weight = "bold" if bold else "normal"
    path = font_manager.findfont(font_manager.FontProperties(family=[family], weight=weight))
    # The plain layout needs nothing but Pillow's own FreeType: the same pixels wherever its version is the same.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
