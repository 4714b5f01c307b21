"""Any folder in COCO's format: pictures, and one JSON file with their objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dcam_core.dataset import LeftOut, Sample, SampleObject
from dcam_core.errors import DatasetError
from dcam_plugins.datasets._folder import (
    FolderDataset,
    Turn,
    existing,
    list_in,
    locate,
    open_upright,
    read_json,
    stated_size,
    turned,
)
from dcam_plugins.datasets._masks import UnusableMaskError, decode
from dcam_plugins.datasets.names import COCO_SYNONYMS, spoken

__all__ = ["CocoFolder", "CocoRecord", "find_instances", "picture_folders", "picture_names"]


@dataclass(frozen=True)
class CocoRecord:
    """A picture of the JSON file.

    Attributes:
        number: its `id`.
        name: its file, relative to the folder of the pictures.
        size: (width, height) if the JSON file says.
        annotations: its objects as the JSON file has them.
        caption: a text about it, if there is one.
    """

    number: int | str
    name: str
    size: tuple[int, int] | None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    caption: str | None = None


class CocoFolder(FolderDataset[CocoRecord]):
    """Pictures and instances in COCO's format, whoever wrote them.

    One object per annotation, crowds included. Masks are decoded when a sample is asked for.

    Args:
        root: the folder of the data.
        split: which part, as in `instances_SPLIT.json`; needed only where there are several.
        annotations: the JSON file, relative to `root`, if it is not where it is looked for.
        images: the folder of the pictures, relative to `root`, if it is not where it is looked for.
        prompt: what is asked about every picture.
        synonyms: for names of classes, what else people write. `{}` for none.

    Raises:
        DatasetError: there is no such JSON file or several, it is broken, or none of its pictures is there.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        annotations: str | None = None,
        images: str | None = None,
        prompt: str = "describe the picture",
        synonyms: Mapping[str, Sequence[str]] = COCO_SYNONYMS,
    ) -> None:
        root = Path(root).expanduser()
        self.path = find_instances(root, split) if annotations is None else root / annotations
        content = read_json(self.path, dict)
        self._names = _names(content.get("categories"), self.path, synonyms)
        folders = picture_folders(root, self.path, split) if images is None else [root / images]
        self._pictures, records, left_out = _records(list_in(content, "images", self.path), folders)
        left_out += _assign(list_in(content, "annotations", self.path), records)
        super().__init__(root, prompt, list(records.values()), left_out)

    @property
    def categories(self) -> Sequence[tuple[str, ...]]:
        """See `ExplanationDataset.categories`; in the order of the JSON file."""
        return tuple(self._names.values())

    def __getitem__(self, index: int) -> Sample:
        """See `ExplanationDataset.__getitem__`.

        Raises:
            IndexError: there is no such sample.
            PictureError: the picture cannot be read.
            DatasetError: the picture is not of the size that was annotated.
        """
        record = self._record(index)
        picture, turn = open_upright(self._pictures / record.name, record.size)
        objects: list[SampleObject] = []
        left_out: list[LeftOut] = []
        for each in record.annotations:
            try:
                objects.append(self._object(each, record.size or picture.size, turn))
            except UnusableMaskError as error:
                left_out.append(LeftOut(self._described(each), str(error), self._called(each) or ()))
        return Sample(str(record.number), picture, self.prompt, objects, record.caption, left_out)

    def _object(self, annotation: dict[str, Any], size: tuple[int, int], turn: Turn | None) -> SampleObject:
        names = self._called(annotation)
        if names is None:
            raise UnusableMaskError("its category is not among the categories")
        mask = decode(annotation.get("segmentation"), height=size[1], width=size[0])
        return SampleObject(names, torch.from_numpy(turned(mask, turn).copy()))

    def _called(self, annotation: dict[str, Any]) -> tuple[str, ...] | None:
        category = annotation.get("category_id")
        return self._names.get(category) if isinstance(category, int | str) else None

    def _described(self, annotation: dict[str, Any]) -> str:
        names = self._called(annotation) or (f"category {annotation.get('category_id')!r}",)
        return f"annotation {annotation.get('id', 'without id')} ({names[0]})"


def find_instances(root: Path, split: str | None) -> Path:
    """The JSON file of a folder.

    Args:
        root: the folder of the data.
        split: which part, or None where there is just one.

    Raises:
        DatasetError: there is none, or there are several and it is not said which.
    """
    if split is not None:
        choices = (f"annotations/instances_{split}.json", f"{split}/_annotations.coco.json", f"{split}.json")
        return existing(root, choices, f"annotations of split {split!r}")
    found = sorted(root.glob("annotations/instances_*.json"))
    # What exporters of labelling tools write: one JSON file per folder of pictures, or one at the top.
    found += sorted(root.glob("_annotations.coco.json")) + sorted(root.glob("*/_annotations.coco.json"))
    found = found or sorted(root.glob("*.json")) or sorted(root.glob("annotations/*.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise DatasetError(f"{root} has several JSON files, {names}: say which by split or annotations")
    return existing(
        root, ["annotations/instances_SPLIT.json", "*/_annotations.coco.json", "*.json"], "JSON file"
    )


def picture_folders(root: Path, path: Path, split: str | None) -> list[Path]:
    """Where the pictures of a JSON file may be, the likeliest first.

    Args:
        root: the folder of the data.
        path: the JSON file.
        split: the part that was asked for; by default what follows `instances_` in the file's name.
    """
    part = split or path.stem.partition("instances_")[2]
    # The "minival" of COCO is a part of its validation pictures, and lies in their folder.
    parts = [part, part.removeprefix("mini")] if part else []
    folders = [folder for each in parts for folder in (root / "images" / each, root / each)]
    return [*folders, root / "images", root / "image", path.parent, root]


def picture_names(image: Mapping[str, Any]) -> list[str]:
    """The file names that a picture of the JSON file may have, the likeliest first."""
    names = [image["file_name"]] if isinstance(image.get("file_name"), str) and image["file_name"] else []
    if isinstance(image.get("id"), int):
        names.append(f"{image['id']:012d}.jpg")
    return names


def _names(
    categories: Any, path: Path, synonyms: Mapping[str, Sequence[str]]
) -> dict[int | str, tuple[str, ...]]:
    """The names of every category, by its id."""
    if not isinstance(categories, list) or not all(
        isinstance(each, dict)
        and isinstance(each.get("id"), int | str)
        and isinstance(each.get("name"), str)
        and spoken(each["name"])
        for each in categories
    ):
        raise DatasetError(f"{path} has no list 'categories' of which each has an id and a name")
    names = {}
    for each in categories:
        first = spoken(each["name"])
        # LVIS writes its synonyms into the file; what writes null there knows none.
        own = each.get("synonyms") or []
        if not isinstance(own, list) or not all(isinstance(other, str) for other in own):
            raise DatasetError(
                f"{path}: the synonyms of category {each['name']!r} are {own!r}, expected a list of texts"
            )
        others = (*filter(None, map(spoken, own)), *synonyms.get(first, ()))
        names[each["id"]] = tuple(dict.fromkeys((first, *others)))
    return names


def _records(
    images: list[Any], folders: Sequence[Path]
) -> tuple[Path, dict[int | str, CocoRecord], list[LeftOut]]:
    """The folder of the pictures, those that are there by id, and those that are not."""
    left_out: list[LeftOut] = []
    proper: dict[int | str, dict[str, Any]] = {}
    for position, image in enumerate(images):
        if (
            not isinstance(image, dict)
            or not isinstance(image.get("id"), int | str)
            or not picture_names(image)
        ):
            left_out.append(LeftOut(f"entry {position} of images", "it has no id or no file name"))
        elif image["id"] in proper:
            left_out.append(LeftOut(f"image {image['id']}", "an earlier image has the same id"))
        else:
            proper[image["id"]] = image
    folder, found = locate(folders, [picture_names(image) for image in proper.values()])
    records: dict[int | str, CocoRecord] = {}
    for (number, image), name in zip(proper.items(), found, strict=True):
        if name is None:
            missing = LeftOut(f"image {number} ({picture_names(image)[0]})", "its file is missing")
            left_out.append(missing)
        else:
            records[number] = CocoRecord(number, name, stated_size(image))
    return folder, records, left_out


def _assign(annotations: list[Any], records: Mapping[int | str, CocoRecord]) -> Iterator[LeftOut]:
    """Give every annotation to its picture, and say which have none."""
    for position, each in enumerate(annotations):
        if not isinstance(each, dict) or not isinstance(each.get("image_id"), int | str):
            yield LeftOut(f"entry {position} of annotations", "it belongs to no image")
        elif each["image_id"] in records:
            records[each["image_id"]].annotations.append(each)
        else:
            what = f"annotation {each.get('id', 'without id')} of image {each['image_id']}"
            yield LeftOut(what, "its image is left out or unknown")
