"""Average drop and increase: the word's probability when only what the map lights up is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.faithfulness.perturbing import picture_of, pixels_of
from dcam_core.results.picture_maps import stretch_map

if TYPE_CHECKING:
    from dcam_core.faithfulness.asking import AskedWords

__all__ = ["Drop", "drop_and_increase"]


@dataclass(frozen=True, eq=False)
class Drop:
    """Log-probabilities of T words.

    Attributes:
        whole: [T] float64, with the whole picture.
        lit: [T] float64, with the picture multiplied by the word's map.
    """

    whole: Tensor
    lit: Tensor

    @property
    def drop(self) -> Tensor:
        """[T] float64 in [0, 1], the share of the probability that is lost, 0 if none; lower is better."""
        return (1 - (self.lit - self.whole).exp()).clamp(min=0)

    @property
    def increase(self) -> Tensor:
        """[T] float64, 1 where the probability grew and 0 elsewhere; higher is better."""
        return (self.lit > self.whole).double()


def drop_and_increase(asked: AskedWords, maps: Tensor) -> Drop:
    """Show each word its picture multiplied by its map, which is stretched over it.

    A map that is 1 everywhere loses nothing: read this beside a measure of where the map lies, never alone.

    Args:
        asked: the words.
        maps: [T, h, w] in [0, 1], a map for each word.

    Raises:
        UsageError: maps do not fit.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    asked.check_maps(maps)
    if maps.numel() and not (maps.amin() >= 0 and maps.amax() <= 1):
        raise UsageError(
            f"maps hold values from {maps.amin().item():g} to {maps.amax().item():g}: a picture can be multiplied by "
            "values in [0, 1]"
        )
    pixels = pixels_of(asked.picture)
    lit = [
        asked.with_picture(picture_of(pixels * stretch_map(map_.cpu().double(), asked.picture.size)), [word])
        for word, map_ in enumerate(maps)
    ]
    return Drop(asked.with_picture(asked.picture), torch.cat([torch.zeros(0, dtype=torch.float64), *lit]))
