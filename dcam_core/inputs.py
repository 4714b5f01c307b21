"""What an adapter makes of a picture and a prompt: embeddings, and where the picture is among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageView", "Inputs", "Prefix"]


@dataclass(frozen=True, eq=False)
class ImageView:
    """One rectangular grid of image tokens: a whole-picture overview, or the any-resolution tiles.

    Newline and separator tokens are not part of a view: they show no part of the picture.

    Attributes:
        name: name of the view within its family, e.g. "base" or "grid".
        positions: [rows, cols] int64, the position of every image token in the prompt's sequence.
        rectangles: [rows, cols, 4] float64, the area (x0, y0, x1, y1) of the *original* picture that the
            token shows, in pixels; x grows to the right, y downwards; inside [0, width] x [0, height].
        picture: which picture of the prompt this is a view of, counted from 0.
    """

    name: str
    positions: Tensor
    rectangles: Tensor
    picture: int = 0

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.dtype != torch.int64:
            raise ValueError(
                f"ImageView {self.name!r}: positions must be [rows, cols] int64, "
                f"found {tuple(self.positions.shape)} {self.positions.dtype}"
            )
        if self.rectangles.shape != (*self.positions.shape, 4):
            raise ValueError(
                f"ImageView {self.name!r}: rectangles must be {(*self.positions.shape, 4)}, "
                f"found {tuple(self.rectangles.shape)}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of the token grid."""
        rows, cols = self.positions.shape
        return rows, cols


@dataclass(frozen=True, eq=False)
class Inputs:
    """The prompt as the language model reads it, with its image tokens located.

    Attributes:
        prompt: the user's prompt, as given.
        picture_sizes: (width, height) in pixels of every picture of the prompt.
        embeddings: [1, L, D], the merged prompt embeddings (text and image), detached, on the model's
            device and in its dtype.
        views: the grids of image tokens.
        image_span: first position of the image tokens and one past the last, newline tokens included.
            Structural validity asks whether this whole span is in a module's output.
        pixels: [crops, 3, S, S] float, what the vision tower read (for pixel-space methods and parity).
    """

    prompt: str
    picture_sizes: tuple[tuple[int, int], ...]
    embeddings: Tensor
    views: tuple[ImageView, ...]
    image_span: tuple[int, int]
    pixels: Tensor | None = field(default=None, repr=False)

    @property
    def prompt_length(self) -> int:
        """L, the number of positions before the answer region."""
        return int(self.embeddings.shape[1])


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the prompt's forward pass leaves behind under prefix caching.

    The prompt is read once and by itself: its rows never see the answer. Every denoising step then computes
    the answer's rows alone, which attend to these keys and values and to each other.

    Attributes:
        keys_values: keys and values of every block, in the family's own form, for a batch of one; part of the
            graph if they were computed with one.
        first_logits: [1, V] float32, logits of the first answer position where the prompt alone decides it
            (families that predict the next token: the row of the prompt's last token); None elsewhere.
    """

    keys_values: Any
    first_logits: Tensor | None = None
