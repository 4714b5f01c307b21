"""Generated pictures: a scene to talk about, shapes to lay out, and a bright patch to look for."""

from __future__ import annotations

from PIL import Image, ImageDraw

__all__ = ["patched", "scene", "shapes"]

Size = tuple[int, int]

DARK, BRIGHT = (40, 40, 40), (255, 255, 255)


def shapes(side: int) -> dict[str, Size]:
    """Sizes (width, height) in pixels that an adapter must be able to lay out.

    Args:
        side: side of the square that the model reads.

    Returns:
        Name -> size: as large as the model's square, twice as wide, higher, odd numbers, and smaller.
    """
    return {
        "square": (side, side),
        "wide": (2 * side + side // 3, side),
        "tall": (side, side + 3 * side // 4),
        "odd": (side + side // 3 | 1, side - side // 7 | 1),
        "small": (max(16, 2 * side // 3), max(16, side // 2)),
    }


def scene(size: Size) -> Image.Image:
    """A red circle, a blue square and a green triangle on grey.

    Args:
        size: (width, height) in pixels.
    """
    width, height = size
    picture = Image.new("RGB", size, (128, 128, 128))
    draw, r = ImageDraw.Draw(picture), min(size) / 7
    x, y = width / 4, height / 3
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(220, 40, 40))
    x, y = 3 * width / 4, height / 3
    draw.rectangle((x - r, y - r, x + r, y + r), fill=(40, 70, 220))
    x, y = width / 2, 3 * height / 4
    draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=(40, 160, 60))
    return picture


def patched(size: Size, patch: tuple[int, int, int, int] | None) -> Image.Image:
    """A dark picture with one bright rectangle.

    Args:
        size: (width, height) in pixels.
        patch: (x0, y0, x1, y1) in whole pixels; None: no rectangle.
    """
    picture = Image.new("RGB", size, DARK)
    if patch is not None:
        picture.paste(BRIGHT, patch)
    return picture
