"""What stands in the picture's place when its worth is measured: a picture that shows nothing, or something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps, ImageStat

from dcam_core.errors import ConfigurationError
from dcam_core.picture import read_picture

__all__ = [
    "BASELINES",
    "DEFAULT_BASELINES",
    "OWN_FOLDER",
    "Baseline",
    "StandIn",
    "default_baselines",
    "stand_ins",
]

Baseline = str | Path | Image.Image
"""A name out of `BASELINES`, a picture, the path of one, or that of a folder of pictures."""

_BLUR = 8  # the Gaussian's radius (standard deviation) is the shorter side divided by this


def _mean_colour(picture: Image.Image) -> Image.Image:
    """One flat colour, the mean of the picture: nothing can be seen, but brightness and tint are the same."""
    mean = ImageStat.Stat(picture).mean
    return Image.new("RGB", picture.size, tuple(round(channel) for channel in mean))


def _blur(picture: Image.Image) -> Image.Image:
    """The picture out of focus: shapes and small things are gone, coarse colours and places remain."""
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) / _BLUR))


BASELINES = {"mean-colour": _mean_colour, "blur": _blur}
"""Name -> what it makes of an RGB picture; the size stays."""

DEFAULT_BASELINES = ("mean-colour", "blur")
"""What is used where a checkpoint brings no pictures of its own."""

OWN_FOLDER = "baselines"
"""Folder of a checkpoint with pictures of the kind that the model was made for: the best baselines there are."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """What stands in place of all pictures of a prompt.

    Attributes:
        name: what it is called in results.
        pictures: RGB, of the sizes of those that they stand for.
    """

    name: str
    pictures: tuple[Image.Image, ...]


def default_baselines(checkpoint: Path | None) -> tuple[Baseline, ...]:
    """The pictures that a checkpoint brings, or what can be made of every picture."""
    if checkpoint is not None and (checkpoint / OWN_FOLDER).is_dir():
        return (checkpoint / OWN_FOLDER,)
    return DEFAULT_BASELINES


def stand_ins(pictures: Sequence[Image.Image], baselines: Iterable[Baseline]) -> tuple[StandIn, ...]:
    """What stands in place of the pictures of a prompt.

    Args:
        pictures: the pictures, RGB.
        baselines: which. Another picture is cropped around its middle and scaled to the size of the one that it
            stands for, so that the prompt keeps its layout.

    Returns:
        One for each baseline, and for each picture of a folder.

    Raises:
        ConfigurationError: there is neither a baseline nor a file of that name, or a folder is empty.
        PictureError: a file is no picture.
    """
    return tuple(found for baseline in baselines for found in _stand_ins(pictures, baseline))


def _stand_ins(pictures: Sequence[Image.Image], baseline: Baseline) -> Iterator[StandIn]:
    if isinstance(baseline, Image.Image):
        yield _other(pictures, baseline, "another picture")
    elif isinstance(baseline, str) and baseline in BASELINES:
        yield StandIn(baseline, tuple(BASELINES[baseline](picture) for picture in pictures))
    else:
        for path in _files(Path(baseline).expanduser()):
            yield _other(pictures, path, path.name)


def _other(pictures: Sequence[Image.Image], other: Image.Image | Path, name: str) -> StandIn:
    shown = read_picture(other)
    return StandIn(name, tuple(ImageOps.fit(shown, picture.size) for picture in pictures))


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder in the order of their names; hidden ones are no pictures."""
    if not path.exists():
        raise ConfigurationError(
            f"baseline {str(path)!r} is neither one of {', '.join(BASELINES)} nor a file or folder: name one of "
            "these, or give the path of another picture or of a folder of pictures"
        )
    files = (
        [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file() and f.name[0] != ".")
    )
    if not files:
        raise ConfigurationError(
            f"baseline {str(path)!r} is a folder without a picture: give one with pictures"
        )
    return files
