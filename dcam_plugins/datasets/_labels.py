"""Objects from label pictures: one number per pixel says what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_core.dataset import LeftOut, SampleObject
from dcam_core.errors import DatasetError
from dcam_plugins.datasets._folder import Turn, turned

__all__ = ["labelled_objects", "read_labels"]


def read_labels(path: Path) -> NDArray[np.int64]:
    """The numbers of a label picture.

    Args:
        path: a PNG with one channel; of a palette picture the indices are the labels.

    Returns:
        `[H, W]`; 0 is background.

    Raises:
        DatasetError: the file cannot be read or has several channels.
    """
    try:
        with Image.open(path) as file:
            labels = np.array(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"label picture {path} cannot be read: {error}") from error
    if labels.ndim != 2:
        raise DatasetError(
            f"label picture {path} has {labels.shape[-1]} channels, but the label of a pixel is one number: "
            "write it in mode L, P or I;16"
        )
    return labels.astype(np.int64)


def labelled_objects(
    labels: NDArray[np.int64], names: Mapping[int, tuple[str, ...]], turn: Turn | None
) -> tuple[list[SampleObject], list[LeftOut]]:
    """One object per label: all pixels that have it.

    Args:
        labels: `[H, W]`.
        names: what each label is called.
        turn: how the labels come to lie on the upright picture.

    Returns:
        The objects, by label; and the labels that have no name.
    """
    there = [int(label) for label in np.unique(labels) if label]
    objects = [
        SampleObject(names[label], torch.from_numpy(turned(labels == label, turn).copy()))
        for label in there
        if label in names
    ]
    return objects, [LeftOut(f"label {label}", "it has no name") for label in there if label not in names]
