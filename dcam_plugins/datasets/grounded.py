"""Captions whose phrases are grounded: GranDf as published, and TAM's layout of GranDf and OpenPSG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcam_core.dataset import LeftOut, Sample, SampleObject
from dcam_core.errors import DatasetError
from dcam_plugins.datasets._folder import (
    FolderDataset,
    Listing,
    existing,
    locate,
    numbered,
    open_upright,
    read_json,
    stated_size,
    turned,
)
from dcam_plugins.datasets._labels import labelled_objects, read_labels
from dcam_plugins.datasets._masks import UnusableMaskError, decode
from dcam_plugins.datasets.names import head_noun, spoken, without_panoptic_suffix

__all__ = ["GranDf", "GranDfLabels", "GroundedRecord", "LabelRecord", "OpenPSG"]

GRANDF_PROMPT = "Write a description for this image using around two sentences:"
OPENPSG_PROMPT = "Write a description for this image using around three sentences:"
"""What the published protocol asks. No prompt names what is to be found."""


@dataclass(frozen=True)
class GroundedRecord:
    """A picture with a caption, and masks for phrases of it.

    Attributes:
        key: the picture's name in the file.
        name: the picture's file, relative to the folder of the pictures.
        size: (width, height) if the file says.
        caption: the text.
        groundings: for every phrase what the file holds.
    """

    key: str
    name: str
    size: tuple[int, int] | None
    caption: str | None
    groundings: dict[str, Any]


class GranDf(FolderDataset[GroundedRecord]):
    """GranDf in the layout in which it is published (grounded conversation generation).

    `GranDf_HA_GCG_SPLIT.json` is a list of `{"file_name", "height", "width", "caption", "groundings": {phrase:
    {"token_positives": ..., "rle_masks": [...]}}}`. A phrase is one object; its mask is the union of all its run
    lengths. It is called by the phrase without its article and by the phrase's head noun. Other sets in this layout
    are read with `annotations` and `images`.

    Args:
        root: the folder of the data.
        split: "train" or "val".
        annotations: the JSON file, relative to `root`, if it is not where it is looked for.
        images: the folder of the pictures, relative to `root`, if it is not where it is looked for.
        prompt: what is asked about every picture.

    Raises:
        DatasetError: the JSON file is missing or broken, or none of its pictures is there.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        annotations: str | None = None,
        images: str | None = None,
        prompt: str = GRANDF_PROMPT,
    ) -> None:
        root = Path(root).expanduser()
        name = f"GranDf_HA_GCG_{split}.json"
        folders = (f"annotations/{split}", split, "annotations", ".")
        choices = [f"{folder}/{name}" for folder in folders] if annotations is None else [annotations]
        if annotations is None and (root / "anno.json").is_file():
            raise DatasetError(f"{root} is in the layout with anno.json: read it as 'grandf-labels'")
        path = existing(root, choices, f"annotations of split {split!r}")
        places = ("GranDf_HA_images/{}", "images/{}", "{}", "images", ".") if images is None else (images,)
        records, left_out = _grounded(read_json(path, list))
        self._pictures, found = locate(
            [root / place.format(split) for place in places], [(record.name,) for record in records]
        )
        missing = [record for record, name in zip(records, found, strict=True) if name is None]
        left_out += [LeftOut(record.key, "its picture is missing") for record in missing]
        kept = [record for record, name in zip(records, found, strict=True) if name is not None]
        super().__init__(root, prompt, kept, left_out)

    def __getitem__(self, index: int) -> Sample:
        """See `ExplanationDataset.__getitem__`.

        Raises:
            IndexError: there is no such sample.
            PictureError: the picture cannot be read.
            DatasetError: the picture is not of the size that was annotated.
        """
        record = self._record(index)
        picture, turn = open_upright(self._pictures / record.name, record.size)
        size = record.size or picture.size
        objects: list[SampleObject] = []
        left_out: list[LeftOut] = []
        for phrase, grounding in record.groundings.items():
            masks, unusable = _phrase_masks(phrase, grounding, size)
            names = _called(phrase) if spoken(phrase) else ()
            # With one usable mask the phrase is an object, though perhaps not all of it is outlined.
            left_out += unusable if masks else [replace(each, words=names) for each in unusable]
            if masks:
                mask = turned(np.logical_or.reduce(masks), turn)
                objects.append(SampleObject(names, torch.from_numpy(mask.copy())))
        return Sample(record.key, picture, self.prompt, objects, record.caption, left_out)


def _grounded(entries: list[Any]) -> tuple[list[GroundedRecord], list[LeftOut]]:
    """The proper entries of the file, with keys that differ, and the others."""
    left_out: list[LeftOut] = []
    proper: list[dict[str, Any]] = []
    for position, entry in enumerate(entries):
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("file_name"), str)
            or not entry["file_name"]
        ):
            left_out.append(LeftOut(f"entry {position}", "it has no file_name"))
        elif not isinstance(entry.get("groundings"), dict):
            left_out.append(LeftOut(f"entry {position} ({entry['file_name']})", "it has no groundings"))
        else:
            proper.append(entry)
    keys = numbered(entry["file_name"] for entry in proper)
    records = [
        GroundedRecord(
            key, entry["file_name"], stated_size(entry), _text(entry.get("caption")), entry["groundings"]
        )
        for key, entry in zip(keys, proper, strict=True)
    ]
    return records, left_out


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _called(phrase: str) -> tuple[str, ...]:
    whole = spoken(phrase)
    return tuple(dict.fromkeys((whole, head_noun(whole))))


def _phrase_masks(
    phrase: str, grounding: Any, size: tuple[int, int]
) -> tuple[list[NDArray[np.bool_]], list[LeftOut]]:
    """The masks of a phrase, and what of it could not be used."""
    runs = grounding.get("rle_masks") if isinstance(grounding, dict) else None
    if not spoken(phrase) or not isinstance(runs, list) or not runs:
        return [], [LeftOut(f"phrase {phrase!r}", "it has no outline and no mask")]
    masks: list[NDArray[np.bool_]] = []
    left_out: list[LeftOut] = []
    for number, each in enumerate(runs):
        try:
            masks.append(decode(each, height=size[1], width=size[0]))
        except UnusableMaskError as error:
            left_out.append(LeftOut(f"mask {number} of phrase {phrase!r}", str(error)))
    return masks, left_out


@dataclass(frozen=True)
class LabelRecord:
    """A picture with a caption and a label picture.

    Attributes:
        key: the picture's name in the file.
        name: the picture's file, relative to the root.
        labels: the label picture's file, relative to the root.
        caption: the text.
        names: for every label what it is called.
    """

    key: str
    name: str
    labels: str
    caption: str | None
    names: dict[int, tuple[str, ...]]


class GranDfLabels(FolderDataset[LabelRecord]):
    """GranDf as TAM lays it out: `anno.json`, a list of `[picture, caption, label picture, {name: label}]`.

    Paths are relative to `root`; labels are those of one picture. One object per name.

    Args:
        root: the folder of the data.
        prompt: what is asked about every picture.

    Raises:
        DatasetError: anno.json is missing or broken, or no picture with its labels is there.
    """

    def __init__(self, root: str | Path, prompt: str = GRANDF_PROMPT) -> None:
        root = Path(root).expanduser()
        records, left_out = _labelled(
            read_json(existing(root, ["anno.json"], "anno.json"), list), self._called
        )
        files, kept = Listing(root), []
        for record in records:
            missing = [name for name in (record.name, record.labels) if name not in files]
            if missing:
                what = "picture" if missing[0] == record.name else "label picture"
                left_out.append(LeftOut(record.key, f"its {what} is missing"))
            else:
                kept.append(record)
        super().__init__(root, prompt, kept, left_out)

    def _called(self, name: str) -> tuple[str, ...]:
        """The words for a name of the file."""
        return _called(name)

    def __getitem__(self, index: int) -> Sample:
        """See `ExplanationDataset.__getitem__`.

        Raises:
            IndexError: there is no such sample.
            PictureError: the picture cannot be read.
            DatasetError: the label picture cannot be read, or is not of the picture's size.
        """
        record = self._record(index)
        labels = read_labels(self.root / record.labels)
        picture, turn = open_upright(self.root / record.name, (labels.shape[1], labels.shape[0]))
        objects, left_out = labelled_objects(labels, record.names, turn)
        there = {int(label) for label in np.unique(labels)}
        left_out += [
            LeftOut(f"label {label} ({names[0]})", "its mask is empty", names)
            for label, names in record.names.items()
            if label not in there
        ]
        return Sample(record.key, picture, self.prompt, objects, record.caption, left_out)


class OpenPSG(GranDfLabels):
    """OpenPSG as TAM lays it out: see `GranDfLabels`.

    Names are those of COCO panoptic; objects are called without the endings that no sentence has: `wall-other-merged`
    is a wall, `floor-wood` a wood floor and a floor.

    Args:
        root: the folder of the data.
        prompt: what is asked about every picture.

    Raises:
        DatasetError: see `GranDfLabels`.
    """

    def __init__(self, root: str | Path, prompt: str = OPENPSG_PROMPT) -> None:
        super().__init__(root, prompt=prompt)

    def _called(self, name: str) -> tuple[str, ...]:
        return without_panoptic_suffix(name)


def _labelled(
    entries: list[Any], called: Callable[[str], tuple[str, ...]]
) -> tuple[list[LabelRecord], list[LeftOut]]:
    """The proper entries of anno.json, with keys that differ, and the others."""
    left_out: list[LeftOut] = []
    proper: list[list[Any]] = []
    for position, entry in enumerate(entries):
        if _is_labelled(entry):
            proper.append(entry)
        else:
            left_out.append(
                LeftOut(f"entry {position}", "it is not [picture, caption, label picture, names]")
            )
    keys = numbered(entry[0] for entry in proper)
    return [
        LabelRecord(key, name, labels, _text(caption), {label: called(word) for word, label in names.items()})
        for key, (name, caption, labels, names) in zip(keys, proper, strict=True)
    ], left_out


def _is_labelled(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 4
        and all(isinstance(text, str) for text in entry[:3])
        and isinstance(entry[3], dict)
        and all(type(label) is int and label > 0 and spoken(word) for word, label in entry[3].items())
    )
