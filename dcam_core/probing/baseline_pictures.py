"""What stands in the picture's place when its worth is measured: a picture that shows nothing, or something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps, ImageStat

from dcam_core.errors import ConfigurationError
from dcam_core.picture import read_picture

__all__ = ["BASELINES", "Baseline", "baseline_name", "baseline_pictures"]

Baseline = str | Path | Image.Image
"""A name out of `BASELINES`, a picture, or the path of one."""

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


def baseline_pictures(pictures: Sequence[Image.Image], baseline: Baseline) -> tuple[Image.Image, ...]:
    """What stands in place of the pictures of a prompt.

    Args:
        pictures: the pictures, RGB.
        baseline: which. Another picture is cropped around its middle and scaled to the size of the one that it
            stands for, so that the prompt keeps its layout.

    Returns:
        RGB pictures of the same sizes.

    Raises:
        ConfigurationError: there is neither a baseline nor a file of that name.
        PictureError: the file is no picture.
    """
    if isinstance(baseline, str) and baseline in BASELINES:
        return tuple(BASELINES[baseline](picture) for picture in pictures)
    if isinstance(baseline, str) and not Path(baseline).expanduser().exists():
        raise ConfigurationError(
            f"baseline {baseline!r} is neither one of {', '.join(BASELINES)} nor a file: name one of these, or "
            "give the path of another picture"
        )
    other = read_picture(baseline)
    return tuple(ImageOps.fit(other, picture.size) for picture in pictures)


def baseline_name(baseline: Baseline) -> str:
    """What a baseline is called in results: its name, the name of its file, or "another picture"."""
    if isinstance(baseline, Image.Image):
        return "another picture"
    return baseline if isinstance(baseline, str) and baseline in BASELINES else Path(baseline).name
