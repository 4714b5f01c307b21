"""Masks from COCO's outlines and run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UnusableMaskError", "decode", "run_lengths"]

MaskArray = NDArray[np.bool_]


class UnusableMaskError(Exception):
    """A mask is missing, broken or empty; the message is the reason, worded the same in every such case."""


def decode(segmentation: Any, height: int, width: int) -> MaskArray:
    """The mask of a COCO annotation.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]` in pixels, or `{"size": [height, width], "counts":
            ...}` with run lengths as a list or in COCO's compressed notation.
        height: of the annotated picture.
        width: of the annotated picture.

    Returns:
        `[height, width]`, with at least one pixel set.

    Raises:
        UnusableMaskError: there is no mask, it is broken, or it is empty.
    """
    if not segmentation:
        raise UnusableMaskError("it has no outline and no mask")
    if isinstance(segmentation, Mapping):
        mask = _from_runs(segmentation, height, width)
    elif isinstance(segmentation, list):
        mask = _from_polygons(segmentation, height, width)
    else:
        raise UnusableMaskError(f"its mask is a {type(segmentation).__name__}")
    if not mask.any():
        raise UnusableMaskError("its mask is empty")
    return mask


def run_lengths(counts: str) -> list[int]:
    """Lengths of runs from COCO's compressed notation.

    Six bits per character above the character "0": five of the number, lowest first, and one that says that more
    follow. From the fourth on a number is the difference from the last run of its kind but one.

    Raises:
        UnusableMaskError: the text breaks off or has other characters.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise UnusableMaskError("its run lengths are broken")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise UnusableMaskError("its run lengths are broken")
    return lengths


def _from_runs(segmentation: Mapping[str, Any], height: int, width: int) -> MaskArray:
    # pycocotools returns memory that was never written for runs that do not fill the picture: they are counted here.
    if segmentation.get("size") != [height, width]:
        raise UnusableMaskError("its run lengths are for a picture of another size")
    counts = segmentation.get("counts")
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise UnusableMaskError("its run lengths are broken")
    if sum(lengths) != height * width:
        raise UnusableMaskError("its run lengths do not fill the picture")
    runs = np.arange(len(lengths)) % 2 == 1
    return np.repeat(runs, lengths).reshape(width, height).T


def _from_polygons(polygons: Sequence[Any], height: int, width: int) -> MaskArray:
    # pycocotools takes time and memory in proportion to the coordinates: far outside, they end the process.
    reach = max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise UnusableMaskError("its outline is broken")
        if not all(isinstance(at, int | float) and -reach <= at <= 2 * reach for at in polygon):
            raise UnusableMaskError("its outline has points that are no numbers or far outside the picture")
    from pycocotools import mask as coco

    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return _from_runs({**merged, "counts": merged["counts"].decode("ascii")}, height, width)
