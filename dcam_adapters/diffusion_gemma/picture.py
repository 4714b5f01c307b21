"""Pictures of any size and aspect ratio: resized as a whole, cut into patches, pooled to image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dcam_core.errors import CheckpointError, PictureError
from dcam_core.inputs import ImageView

__all__ = ["Patches", "cut_patches", "load_image_processor"]

VIEW = "picture"

FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, eq=False)
class Patches:
    """What the vision tower reads of some pictures.

    Attributes:
        pixels: [pictures, patches, 3 * p * p] float, padded to the most patches that there can be.
        positions: [pictures, patches, 2] int64, column and row of each patch; -1 for padding.
        sizes: (width, height) in pixels of the original pictures.
        pooling: patches per side that make one image token.
    """

    pixels: Tensor
    positions: Tensor
    sizes: tuple[tuple[int, int], ...]
    pooling: int

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, cols) of image tokens of every picture."""
        extents = (self.positions.amax(1) + 1) // self.pooling
        return tuple((int(rows), int(cols)) for cols, rows in extents)

    def views(self, starts: Sequence[int]) -> tuple[ImageView, ...]:
        """Where the image tokens are, and what they show.

        The picture is resized as a whole and nothing is cut off or padded, so the tokens tile it exactly, row by row.

        Args:
            starts: position of the first image token of every picture.
        """
        views = []
        for number, (start, (rows, cols), (width, height)) in enumerate(
            zip(starts, self.grids, self.sizes, strict=True)
        ):
            x = torch.linspace(0, width, cols + 1, dtype=torch.float64)
            y = torch.linspace(0, height, rows + 1, dtype=torch.float64)
            corners = [x[:-1].expand(rows, -1), y[:-1, None].expand(-1, cols)]
            corners += [x[1:].expand(rows, -1), y[1:, None].expand(-1, cols)]
            positions = start + torch.arange(rows * cols).view(rows, cols)
            views.append(ImageView(VIEW, positions, torch.stack(corners, -1), number))
        return tuple(views)


def cut_patches(pictures: Sequence[Image.Image], processor: Any, pooling: int) -> Patches:
    """Resizes pictures and cuts them into patches.

    Args:
        pictures: at least one.
        processor: an image processor with the call and the output of transformers' Gemma 4 ones.
        pooling: patches per side that the model pools to one image token.

    Raises:
        PictureError: a picture is too narrow to be resized to whole tokens.
    """
    pictures = [picture.convert("RGB") for picture in pictures]
    try:
        made = processor(images=pictures, return_tensors="pt")
    except ValueError as error:
        found = ", ".join(f"{picture.width}x{picture.height}" for picture in pictures)
        line = " ".join(str(error).split())
        raise PictureError(
            f"a picture of {found} pixels cannot be resized to whole image tokens ({line}): crop it to a less "
            "extreme aspect ratio"
        ) from error
    sizes = tuple(picture.size for picture in pictures)
    return Patches(made["pixel_values"], made["image_position_ids"], sizes, pooling)


def load_image_processor(folder: Path | None, vision: Any) -> Any:
    """The image processor of a checkpoint.

    PIL does the resizing: its result does not depend on which libraries are installed.

    Args:
        folder: the checkpoint; where it brings no settings, or is None, those of the vision configuration hold.
        vision: the vision tower's configuration; `patch_size` and `pooling_kernel_size` are read.

    Raises:
        CheckpointError: its settings cannot be read.
    """
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    if folder is None or not any((folder / name).is_file() for name in FILES):
        return Gemma4ImageProcessorPil(
            patch_size=vision.patch_size, pooling_kernel_size=vision.pooling_kernel_size
        )
    try:
        return Gemma4ImageProcessorPil.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: its image processor's settings cannot be read: {line}") from error
