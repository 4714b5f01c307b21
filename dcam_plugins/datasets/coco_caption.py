"""COCO with its captions: masks from the instances, or from label pictures rendered from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dcam_core.dataset import LeftOut, Sample
from dcam_core.errors import DatasetError
from dcam_plugins.datasets._folder import FolderDataset, Listing, existing, locate, open_upright, read_list
from dcam_plugins.datasets._labels import labelled_objects, read_labels
from dcam_plugins.datasets.coco import CocoFolder, CocoRecord, find_instances, picture_folders
from dcam_plugins.datasets.names import COCO_SYNONYMS, LABELS

__all__ = ["CocoCaption", "CocoCaptionLabels"]

PROMPT = "Write a one-sentence caption for this image:"
"""What the published protocol asks."""


class CocoCaption(CocoFolder):
    """COCO Caption: `annotations/instances_SPLIT.json`, `annotations/captions_SPLIT.json` and the pictures.

    Of the captions of a picture, the first in the file is its `caption`; a picture without one is kept.

    Args:
        root: the folder of the data.
        split: such as "val2014", "val2017" or "minival2014"; needed only where there are several instances files. The
            published comparisons do not agree: TAM takes "minival2014", Diffusion-CAM "val2014".
        captions: the file of the captions, relative to `root`. By default that of the split, and for a "mini" split
            without one that of the split that it is a part of.
        images: see `CocoFolder`.
        prompt: what is asked about every picture.
        synonyms: see `CocoFolder`.

    Raises:
        DatasetError: see `CocoFolder`; or there are no captions.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        captions: str | None = None,
        images: str | None = None,
        prompt: str = PROMPT,
        synonyms: Mapping[str, Sequence[str]] = COCO_SYNONYMS,
    ) -> None:
        super().__init__(root, split=split, images=images, prompt=prompt, synonyms=synonyms)
        texts, left_out = _captions(_captions_file(self.root, self.path, captions))
        self._records = [replace(record, caption=texts.get(record.number)) for record in self._records]
        self._left_out = (*self._left_out, *left_out)


class CocoCaptionLabels(FolderDataset[CocoRecord]):
    """COCO Caption as TAM lays it out: label pictures instead of instances.

    `image/000000000042.jpg` is a picture, `seg_label/000000000042.png` its label picture, one channel with COCO's
    category numbers; 0 is background. From `annotations/instances_SPLIT.json` only the ids of the pictures are read.
    One object per class: labels do not tell its instances apart. Names are those of the published protocol, which
    writes "ball" and "glass".

    Args:
        root: the folder of the data.
        split: see `CocoCaption`.
        captions: see `CocoCaption`.
        prompt: what is asked about every picture.
        synonyms: see `CocoFolder`.

    Raises:
        DatasetError: a file is missing or broken, or no picture has labels.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        captions: str | None = None,
        prompt: str = PROMPT,
        synonyms: Mapping[str, Sequence[str]] = COCO_SYNONYMS,
    ) -> None:
        root = Path(root).expanduser()
        path = find_instances(root, split)
        texts, left_out = _captions(_captions_file(root, path, captions))
        numbers = _numbers(path)
        names = [(f"{number:012d}.jpg",) for number in numbers]
        self._pictures, found = locate([root / "image", *picture_folders(root, path, split)], names)
        labels, records = Listing(existing(root, ["seg_label"], "folder of label pictures")), []
        for number, name in zip(numbers, found, strict=True):
            if name is None or f"{number:012d}.png" not in labels:
                file = "picture" if name is None else "label picture"
                left_out.append(LeftOut(f"image {number}", f"its {file} is missing"))
            else:
                records.append(CocoRecord(number, name, None, caption=texts.get(number)))
        self._names = _label_names(synonyms)
        super().__init__(root, prompt, records, left_out)

    @property
    def categories(self) -> Sequence[tuple[str, ...]]:
        """See `ExplanationDataset.categories`; in the order of the labels."""
        return tuple(self._names.values())

    def __getitem__(self, index: int) -> Sample:
        """See `ExplanationDataset.__getitem__`.

        Raises:
            IndexError: there is no such sample.
            PictureError: the picture cannot be read.
            DatasetError: the label picture cannot be read, or is not of the picture's size.
        """
        record = self._record(index)
        path = self.root / "seg_label" / f"{record.number:012d}.png"
        labels = read_labels(path)
        picture, turn = open_upright(self._pictures / record.name, (labels.shape[1], labels.shape[0]))
        objects, left_out = labelled_objects(labels, self._names, turn)
        return Sample(str(record.number), picture, self.prompt, objects, record.caption, left_out)


def _captions_file(root: Path, instances: Path, captions: str | None) -> Path:
    if captions is not None:
        return root / captions
    split = instances.stem.removeprefix("instances_")
    parts = dict.fromkeys((split, split.removeprefix("mini")))
    return existing(root, [f"annotations/captions_{part}.json" for part in parts], "captions")


def _captions(path: Path) -> tuple[dict[int | str, str], list[LeftOut]]:
    """The first caption of every picture by the picture's id, and entries that are none.

    The file may be that of a larger split, so captions of pictures that are not there are nothing to speak of.
    """
    texts: dict[int | str, str] = {}
    left_out: list[LeftOut] = []
    for position, each in enumerate(read_list(path, "annotations")):
        text = each.get("caption") if isinstance(each, dict) else None
        if not isinstance(text, str) or not text.strip() or not isinstance(each.get("image_id"), int | str):
            left_out.append(LeftOut(f"entry {position} of captions", "it has no text or belongs to no image"))
        else:
            texts.setdefault(each["image_id"], text.strip())
    return texts, left_out


def _numbers(path: Path) -> list[int]:
    """The ids of the pictures of an instances file."""
    numbers = [each.get("id") for each in read_list(path, "images") if isinstance(each, dict)]
    proper = [number for number in numbers if isinstance(number, int)]
    if not proper:
        raise DatasetError(f"{path} lists no picture with a number as id: its files are named by it")
    return list(dict.fromkeys(proper))


def _label_names(synonyms: Mapping[str, Sequence[str]]) -> dict[int, tuple[str, ...]]:
    full = {"ball": "sports ball", "glass": "wine glass"}
    return {
        label: tuple(dict.fromkeys((name, full.get(name, name), *synonyms.get(full.get(name, name), ()))))
        for label, name in LABELS.items()
    }
