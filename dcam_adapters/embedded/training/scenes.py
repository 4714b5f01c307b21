"""Training scenes, rendered once into arrays that both stages read.

The dataset of scenes is a plugin and comes in from the caller: an adapter imports no plugin. What is used of
it is written down here as protocols.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL.Image import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["MAX_OBJECTS", "SceneArrays", "SceneDataset", "SceneLike"]

MAX_OBJECTS = 4
"""Most objects in one scene."""

COVERED = 0.15
"""Share of a patch that an object must cover to name it."""

CENTRE_OFFSET = 64
"""Added to the offset to an object's centre, in pixels, so that it fits an unsigned byte."""


class ObjectLike(Protocol):
    """One object of a scene: its words, its box (x0, y0, x1, y1) and its visible mask [H, W] bool."""

    shape: str
    colour: str
    box: tuple[int, int, int, int]
    mask: Tensor


class SceneLike(Protocol):
    """An RGB picture and its objects from left to right."""

    image: Image
    objects: Sequence[ObjectLike]


class SceneDataset(Protocol):
    """A dataset class: `dataset(split, length, size)` has `length` scenes."""

    shapes: Sequence[str]
    colours: Sequence[str]

    def __call__(self, split: str, length: int, size: int) -> Sequence[SceneLike]:
        """The scenes of a split."""


@dataclass(frozen=True, eq=False)
class SceneArrays:
    """Rendered scenes as memory-mapped arrays.

    Attributes:
        images: [N, S, S, 3] uint8.
        patches: [N, P, P, 4] uint8: shape (0: background), colour (0: background), and the offset from the
            patch's centre to the object's, x and y in pixels plus `CENTRE_OFFSET`.
        objects: [N, MAX_OBJECTS, 2] uint8: shape and colour (0: no object), from left to right.
    """

    images: NDArray[np.uint8]
    patches: NDArray[np.uint8]
    objects: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def rendered(
        cls, folder: Path, dataset: SceneDataset, split: str, length: int, *, size: int, patch: int
    ) -> Self:
        """Read the arrays from a folder, or render them into it first.

        Args:
            folder: where they are kept; half-rendered arrays of an interrupted run are made anew.
            dataset: the dataset class.
            split: its split.
            length: number of scenes.
            size: side S of the pictures in pixels.
            patch: side of a patch in pixels.
        """
        facts = {"split": split, "length": length, "size": size, "patch": patch}
        done = folder / "rendered.json"
        if not done.is_file() or json.loads(done.read_text()) != facts:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _render(folder, dataset, split, length, size, patch)
            done.write_text(json.dumps(facts))
        names = ("images", "patches", "objects")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))

    def batch(self, indices: NDArray[np.int64], *, mirrored: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Some scenes, all of them mirrored or none.

        Returns:
            pixels [B, 3, S, S] float32 in [-1, 1], patches [B, P, P, 4] int64 (offsets signed, in pixels) and
            objects [B, MAX_OBJECTS, 2] int64 from left to right.
        """
        indices = np.sort(indices)  # in file order: faster on a cold disk
        images = torch.from_numpy(self.images[indices])
        patches = torch.from_numpy(self.patches[indices].astype(np.int64))
        objects = torch.from_numpy(self.objects[indices].astype(np.int64))
        patches[..., 2:] -= CENTRE_OFFSET
        patches[..., 2:] *= patches[..., :1] > 0
        if mirrored:
            images, patches = images.flip(2), patches.flip(2)
            patches[..., 2] *= -1
            objects = _right_to_left(objects)
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1, patches, objects


def _right_to_left(objects: Tensor) -> Tensor:
    """The objects in the order in which a mirror shows them; empty places stay last."""
    empty = (objects[..., 0] == 0).long()
    places = torch.arange(objects.shape[1]).expand_as(empty)
    order = torch.where(empty == 1, places + objects.shape[1], -places).argsort(dim=1)
    return objects.gather(1, order[..., None].expand_as(objects))


class _Labelled(Dataset[tuple[NDArray[np.uint8], ...]]):
    """Scenes with their labels, for a data loader's workers."""

    def __init__(self, dataset: SceneDataset, split: str, length: int, size: int, patch: int) -> None:
        self.scenes = dataset(split, length, size)
        self.shapes = {word: index for index, word in enumerate(dataset.shapes, start=1)}
        self.colours = {word: index for index, word in enumerate(dataset.colours, start=1)}
        self.patch = patch

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], ...]:
        scene = self.scenes[index]
        side, patch = scene.image.height, self.patch
        cells = side // patch
        names = np.array([(self.shapes[o.shape], self.colours[o.colour]) for o in scene.objects])
        masks = np.stack([o.mask.numpy() for o in scene.objects])
        covered = masks.reshape(-1, cells, patch, cells, patch).mean((2, 4))
        owner, named = covered.argmax(0), covered.max(0) > COVERED
        middles = np.array([((o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2) for o in scene.objects])
        y, x = np.mgrid[0:cells, 0:cells] * patch + patch / 2
        offsets = np.clip(middles[owner] - np.stack([x, y], -1), 1 - CENTRE_OFFSET, CENTRE_OFFSET - 1)
        patches = np.zeros((cells, cells, 4), np.uint8)
        patches[named, :2] = names[owner[named]]
        patches[named, 2:] = np.round(offsets[named]) + CENTRE_OFFSET
        objects = np.zeros((MAX_OBJECTS, 2), np.uint8)
        objects[: len(names)] = names
        return np.array(scene.image), patches, objects


def _render(folder: Path, dataset: SceneDataset, split: str, length: int, size: int, patch: int) -> None:
    """Render with two worker processes, and write as it comes."""
    rank_zero_info(f"rendering {length} scenes into {folder}")
    cells = size // patch
    shapes: dict[str, tuple[int, ...]] = {
        "images": (length, size, size, 3),
        "patches": (length, cells, cells, 4),
        "objects": (length, MAX_OBJECTS, 2),
    }
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in shapes.items()
    ]
    loader: DataLoader[Any] = DataLoader(
        _Labelled(dataset, split, length, size, patch), batch_size=100, num_workers=2
    )
    start = 0
    for batch in track(loader, description="rendering scenes", total=len(loader)):
        stop = start + len(batch[0])
        for array, part in zip(arrays, batch, strict=True):
            array[start:stop] = part.numpy()
        start = stop
    for array in arrays:
        array.flush()
