"""What the page carries: compressed, as text, and no more of it than can be sent by mail."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_core.evaluation.page.choice import most_telling_first
from dcam_core.evaluation.page.words import WordScores
from dcam_core.evaluation.pictures import SamplePictures

__all__ = ["BUDGET", "Packed", "pack", "packed_scores"]

BUDGET = 12_000_000
"""Most bytes that the pictures of a page may take."""

# Words are taken out of order; the unpacked pictures of all samples need not fit in memory.
_SAMPLES_AT_HAND = 64


@dataclass(frozen=True)
class Packed:
    """Pictures as the page carries them.

    Attributes:
        pictures: number of a sample -> its picture, an address to be shown, and its width and height.
        words: number of a word -> where it stands in the answer, its masks and maps.
        cut: whether there are more, which the page has no room for.
    """

    pictures: dict[int, dict[str, Any]]
    words: dict[int, dict[str, Any]]
    cut: bool


def pack(
    found: WordScores,
    methods: Sequence[str],
    read: Callable[[int], SamplePictures | None],
    budget: int = BUDGET,
) -> Packed:
    """Choose and pack pictures: of all words if the budget allows it, otherwise the most telling ones.

    Args:
        found: the words and their scores.
        methods: names of the methods; the first is the one that the others are compared with.
        read: gives a sample's pictures by its number; None where none are kept.
        budget: most bytes of what is packed.
    """
    numbers = np.concatenate([found.scores, found.scores[1:] - found.scores[:1]])
    kept_of = lru_cache(maxsize=_SAMPLES_AT_HAND)(read)
    pictures: dict[int, dict[str, Any]] = {}
    words: dict[int, dict[str, Any]] = {}
    left = budget
    for number in most_telling_first(numbers.reshape(numbers.shape[0] * numbers.shape[1], numbers.shape[2])):
        word = found.words[number]
        kept = kept_of(word.sample)
        if kept is None or word.positions not in kept.positions:
            continue
        picture = pictures.get(word.sample) or _packed_picture(kept)
        own = _packed_word(kept, kept.positions.index(word.positions), methods)
        left -= len(own["pack"]) + (0 if word.sample in pictures else len(picture["address"]))
        if left < 0:
            return Packed(pictures, words, cut=True)
        pictures[word.sample], words[number] = picture, own
    return Packed(pictures, words, cut=False)


def packed_scores(scores: NDArray[np.float32]) -> str:
    """Scores as text: compressed 32-bit numbers, little-endian, the words of a number side by side."""
    return _text(np.ascontiguousarray(scores, dtype="<f4").tobytes())


def _packed_picture(kept: SamplePictures) -> dict[str, Any]:
    width, height = kept.size
    kind = "png" if kept.picture.startswith(b"\x89PNG") else "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(kept.picture).decode('ascii')}"
    return {"address": address, "width": width, "height": height}


def _packed_word(kept: SamplePictures, place: int, methods: Sequence[str]) -> dict[str, Any]:
    mask = kept.masks[place]
    maps = [kept.maps[method][place] if method in kept.maps else None for method in methods]
    parts = [mask.astype(np.uint8)] if mask.any() else []
    parts += [one for one in maps if one is not None]
    return {
        "span": [int(end) for end in kept.spans[place]],
        "masked": bool(mask.any()),
        "grids": [None if one is None else list(one.shape) for one in maps],
        "pack": _text(b"".join(part.tobytes() for part in parts)),
    }


def _text(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")
