"""Read pictures, or say why they cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from dcam_core.errors import PictureError

__all__ = ["read_picture", "read_pictures"]


def read_picture(picture: Image.Image | str | Path) -> Image.Image:
    """A picture as RGB, upright.

    Args:
        picture: a picture, or the path of one.

    Returns:
        A new RGB picture; orientation flags are applied, transparency is laid on white.

    Raises:
        PictureError: the file is missing, is a folder, or is no picture.
    """
    if not isinstance(picture, Image.Image):
        path = Path(picture).expanduser()
        if path.is_dir():
            raise PictureError(f"picture {path} is a folder: give one picture file")
        try:
            with Image.open(path) as opened:
                opened.load()
                picture = opened
        except FileNotFoundError as error:
            raise PictureError(f"picture {path} does not exist") from error
        except UnidentifiedImageError as error:
            raise PictureError(
                f"picture {path} is not a picture that can be read: its content is no known format; "
                "give a PNG, JPEG, WebP or similar file"
            ) from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise PictureError(f"picture {path} cannot be read: {error}") from error
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")


def read_pictures(
    pictures: Image.Image | str | Path | Sequence[Image.Image | str | Path],
) -> tuple[Image.Image, ...]:
    """One picture or several as RGB, upright.

    Args:
        pictures: a picture, the path of one, or a sequence of pictures and paths.

    Returns:
        At least one picture, each as `read_picture` gives it.

    Raises:
        PictureError: there is none in the sequence, or one cannot be read.
    """
    if isinstance(pictures, Image.Image | str | Path):
        return (read_picture(pictures),)
    if not pictures:
        raise PictureError("the sequence of pictures is empty: give at least one picture")
    return tuple(read_picture(picture) for picture in pictures)
