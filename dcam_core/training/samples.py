"""What is explained in a training: samples that are fixed, or that a function chooses from the batch at hand."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from PIL import Image
from torch import Tensor

from dcam_core.dataset import Sample, SampleObject
from dcam_core.errors import ConfigurationError, DcamError
from dcam_core.picture import read_picture
from dcam_core.training.notebook import tag

__all__ = ["FromBatch", "SampleSource"]

FromBatch = Callable[..., Sequence[Sample]]
"""Chooses what is explained of a batch, with keys that stay the same from batch to batch; an empty list: nothing.

It takes the batch and, if it has parameters of these names, `batch_idx` and `dataloader_idx`.
"""


class SampleSource:
    """Samples for every moment at which something is explained.

    Args:
        samples: at least one sample, or a function that chooses.

    Attributes:
        fixed: the samples, each with a picture in RGB; empty where a function chooses.
        sees_every_batch: whether the function takes `batch_idx`, to be asked about every batch.

    Raises:
        ConfigurationError: there is no sample, or one of them is wrong.
    """

    def __init__(self, samples: Iterable[Sample] | FromBatch) -> None:
        self.fixed: tuple[Sample, ...] = ()
        self._choose: FromBatch | None = None
        self._places: frozenset[str] = frozenset()
        if callable(samples):
            self._choose, self._places = samples, _places_taken(samples)
        else:
            self.fixed = checked(samples)
            if not self.fixed:
                raise ConfigurationError(
                    "there are no samples to explain: give at least one, or a function of the batch"
                )

    @property
    def sees_every_batch(self) -> bool:
        """Whether the function says itself which batches are explained."""
        return "batch_idx" in self._places

    def chosen(self, batch: Any, **place: int) -> tuple[Sample, ...]:
        """The samples for a batch.

        Args:
            batch: the batch at hand.
            place: `batch_idx` and `dataloader_idx` of the batch.

        Raises:
            ConfigurationError: a sample that was chosen is wrong.
        """
        if self._choose is None:
            return self.fixed
        return checked(self._choose(batch, **{name: place[name] for name in self._places}))

    def chosen_alike(self, strategy: Strategy, batch: Any, **place: int) -> tuple[Sample, ...]:
        """The samples that rank zero chooses from its own batch, on all ranks; all of them must ask.

        Args:
            strategy: connects the ranks.
            batch: the batch at hand, another one on each rank.
            place: as in `chosen`.

        Raises:
            Exception: on rank zero, whatever the function raised.
            DcamError: on the other ranks, that rank zero could not choose.
        """
        if self._choose is None:
            return self.fixed
        parcel, error = b"", None
        if strategy.is_global_zero:
            try:
                # Packed here: what cannot be packed must not stop rank zero alone, while the others wait for it.
                parcel = pickle.dumps(self.chosen(batch, **place))
            except Exception as raised:  # noqa: BLE001  (raised below, on all ranks)
                error = raised
        told = None if error is None else f"{type(error).__name__}: {error}"
        parcel, told = strategy.broadcast((parcel, told))
        if error is not None:
            raise error
        if told is not None:
            raise DcamError(f"rank 0 could not choose what to explain: {told}")
        found: tuple[Sample, ...] = pickle.loads(parcel)  # noqa: S301  (packed by rank zero of this very run)
        return found


def checked(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Samples as they can be shown: with RGB pictures, masks on the CPU, and a tag of its own each.

    Raises:
        ConfigurationError: something else than samples was given, one of them is wrong, or two share a tag.
    """
    if isinstance(samples, Sample):
        raise ConfigurationError(
            f"`samples` is the one sample {samples.key!r}: give a list of samples, [sample]"
        )
    if not isinstance(samples, Iterable):
        raise ConfigurationError(
            f"`samples` is a {type(samples).__name__}: give a list of dcam_core.dataset.Sample, or a function that "
            "gives one for a batch"
        )
    ready = tuple(_ready(index, sample) for index, sample in enumerate(samples))
    keys: dict[str, str] = {}
    for sample in ready:
        if (name := tag(sample.key)) in keys:
            raise ConfigurationError(
                f"samples {keys[name]!r} and {sample.key!r} would share the tag {name!r}, and their maps one contact "
                "sheet: give each a key of its own"
            )
        keys[name] = sample.key
    return ready


def _ready(index: int, sample: object) -> Sample:
    if not isinstance(sample, Sample):
        raise ConfigurationError(
            f"samples[{index}] is a {type(sample).__name__}: give a dcam_core.dataset.Sample(key, image, prompt, "
            "objects)"
        )
    if not isinstance(sample.image, Image.Image):
        raise ConfigurationError(
            f"sample {sample.key!r}: its image is a {type(sample.image).__name__}: give a PIL picture"
        )
    if sample.image.mode != "RGB":
        sample = dataclasses.replace(sample, image=read_picture(sample.image))
    size = (sample.image.height, sample.image.width)
    for item in sample.objects:
        if not isinstance(item, SampleObject) or not item.words:
            raise ConfigurationError(
                f"sample {sample.key!r}: one of its objects is a {type(item).__name__} without a name: give a "
                "dcam_core.dataset.SampleObject(words, mask) with at least one word"
            )
        what = f"sample {sample.key!r}: the mask of {item.words[0]!r} is"
        mask: object = item.mask
        if not isinstance(mask, Tensor):
            raise ConfigurationError(
                f"{what} a {type(mask).__name__}: give a tensor; torch.as_tensor(mask).bool() makes one"
            )
        if mask.dtype != torch.bool:
            raise ConfigurationError(
                f"{what} {mask.dtype}: give true and false for each pixel, mask > 0 or mask.bool()"
            )
        if mask.shape != size:
            raise ConfigurationError(
                f"{what} {list(mask.shape)}, and its picture [{size[0]}, {size[1]}] (height, width): give a mask of "
                "the picture's size, resized by nearest neighbour"
            )
    objects = tuple(dataclasses.replace(item, mask=item.mask.cpu()) for item in sample.objects)
    return dataclasses.replace(sample, objects=objects)


def _places_taken(function: FromBatch) -> frozenset[str]:
    """What a function wants to know of where its batch stands."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some that are written in C do not tell
        return frozenset()
    return frozenset({"batch_idx", "dataloader_idx"} & parameters.keys())
