"""What is looked at behind the scores: a sample's picture, masks and maps, small enough to be kept for every sample.

They are pictures and no data: values of maps are rounded to 1 / 255, and what is finer than the kept picture is
averaged. Scores were computed before, from what the methods gave.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dcam_core.errors import SavedExplanationError

__all__ = ["LARGEST_MAP", "LARGEST_PICTURE", "SamplePictures"]

LARGEST_PICTURE = 256
"""Longest side of the kept picture and its masks, in pixels."""
LARGEST_MAP = 96
"""Most rows or columns of a kept map."""

_JPEG_QUALITY = 88
_MAPS = "maps: "  # begins a method's name in the file, so that no name can be taken for another array


@dataclass(frozen=True, eq=False)
class SamplePictures:
    """A sample's picture, and over it the masks and maps of W words.

    Attributes:
        picture: the picture as a JPEG or PNG file, whichever is smaller; its longest side has at most
            `LARGEST_PICTURE` pixels.
        positions: the answer positions of each word, by which it is found in `words.jsonl`.
        spans: [W, 2] int64, where each word begins and ends in the answer's text.
        masks: [W, h, w] bool, what each word names, at the size of the kept picture; nowhere true where no mask is
            known.
        maps: method -> [W, rows, columns] uint8, 255 for 1.
    """

    picture: bytes
    positions: tuple[tuple[int, ...], ...]
    spans: NDArray[np.int64]
    masks: NDArray[np.bool_]
    maps: Mapping[str, NDArray[np.uint8]]

    @classmethod
    def of(
        cls,
        picture: Image.Image,
        positions: Sequence[tuple[int, ...]],
        spans: Sequence[tuple[int, int]],
        masks: Iterable[Tensor | None],
        maps: Mapping[str, Tensor],
    ) -> SamplePictures:
        """Make what is kept.

        Args:
            picture: the picture, RGB, of any size.
            positions: the answer positions of each of the W words.
            spans: where each word begins and ends in the answer's text.
            masks: [H, W] bool each, at the size of the picture; None where no mask is known.
            maps: method -> [W, rows, columns] floating in [0, 1].
        """
        shrink = min(1.0, LARGEST_PICTURE / max(picture.size))
        width, height = (max(1, round(shrink * side)) for side in picture.size)
        small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        shown = [_small_mask(mask, (height, width)) for mask in masks]
        return cls(
            _encoded(small),
            tuple(positions),
            np.array(spans, dtype=np.int64).reshape(-1, 2),
            np.stack(shown) if shown else np.zeros((0, height, width), dtype=np.bool_),
            {method: _small_maps(own) for method, own in maps.items()},
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the kept picture in pixels."""
        with Image.open(io.BytesIO(self.picture)) as picture:
            return picture.size

    def to_bytes(self) -> bytes:
        """As a compressed NumPy archive; the same pictures give the same bytes."""
        longest = max(map(len, self.positions), default=0)
        padded = [[*own, *[-1] * (longest - len(own))] for own in self.positions]
        arrays: dict[str, NDArray[np.generic]] = {
            "picture": np.frombuffer(self.picture, dtype=np.uint8),
            "positions": np.array(padded, dtype=np.int64).reshape(len(padded), longest),
            "spans": self.spans,
            "masks": self.masks,
            **{_MAPS + method: maps for method, maps in self.maps.items()},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> SamplePictures:
        """Read what `to_bytes` gave.

        Raises:
            SavedExplanationError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    archive["picture"].tobytes(),
                    tuple(tuple(int(each) for each in row if each >= 0) for row in archive["positions"]),
                    archive["spans"],
                    archive["masks"],
                    {
                        name.removeprefix(_MAPS): archive[name]
                        for name in archive.files
                        if name.startswith(_MAPS)
                    },
                )
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            AttributeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise SavedExplanationError(
                f"{path} is damaged: {error}; delete it, and the page is made without the pictures of this sample"
            ) from error


def _encoded(picture: Image.Image) -> bytes:
    """JPEG for photographs, PNG for drawings, which JPEG would smear."""
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    picture.save(png, "PNG", optimize=True)
    return min(jpeg.getvalue(), png.getvalue(), key=len)


def _small_mask(mask: Tensor | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another size: pixels of which half is in it, or if there are none, those that hold most of it."""
    if mask is None:
        return np.zeros(size, dtype=np.bool_)
    if tuple(mask.shape) == size:
        return mask.cpu().numpy().astype(np.bool_)
    share = F.adaptive_avg_pool2d(mask.detach().cpu().float()[None], size)[0]
    small = (share >= min(0.5, float(share.max()))) & (share > 0)
    return np.asarray(small.numpy(), dtype=np.bool_)


def _small_maps(maps: Tensor) -> NDArray[np.uint8]:
    """Maps of no more cells than are kept, in steps of 1 / 255."""
    small = maps.detach().cpu().float()
    rows, columns = small.shape[1:]
    shrink = min(1.0, LARGEST_MAP / max(rows, columns))
    if shrink < 1:
        small = F.adaptive_avg_pool2d(small, (max(1, round(shrink * rows)), max(1, round(shrink * columns))))
    return np.asarray((small.clamp(0.0, 1.0) * 255).round().to(torch.uint8).numpy(), dtype=np.uint8)
