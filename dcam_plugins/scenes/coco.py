"""Writes generated scenes as a COCO folder, for tools that read that format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcam_plugins.scenes.scenes import Scenes

__all__ = ["run_lengths", "write_coco"]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths: pixels in column-major order, the first run counts zeros.

    Args:
        mask: `[H, W]`.

    Returns:
        Lengths of alternating runs, summing to `H * W`; the first is 0 when the first pixel is set.
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    return [int(length) for length in np.diff(edges)]


def write_coco(scenes: Scenes, folder: Path) -> Path:
    """Writes pictures, instances and captions.

    `folder` receives `images/NNNNNN.png`, `annotations/instances_SPLIT.json` (categories are the shapes; the
    colour is an extra field `colour` of every annotation) and `annotations/captions_SPLIT.json`.

    Args:
        scenes: The scenes to write.
        folder: Created when missing; files of the same name are replaced.

    Returns:
        `folder`.
    """
    pictures, notes = folder / "images", folder / "annotations"
    pictures.mkdir(parents=True, exist_ok=True)
    notes.mkdir(exist_ok=True)
    categories = {shape: number for number, shape in enumerate(scenes.shapes, start=1)}
    images: list[dict[str, object]] = []
    instances: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    for index, scene in enumerate(scenes):
        name = f"{index:06d}.png"
        scene.image.save(pictures / name)
        width, height = scene.image.size
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        captions.append({"id": index, "image_id": index, "caption": scene.caption})
        for each in scene.objects:
            x0, y0, x1, y1 = each.box
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": index,
                    "category_id": categories[each.shape],
                    "colour": each.colour,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(each.mask.sum()),
                    "segmentation": {"size": [height, width], "counts": run_lengths(each.mask.numpy())},
                    # COCO marks annotations whose segmentation is a run-length mask with iscrowd = 1, and its
                    # evaluation then ignores them; these are single objects, so the flag stays 0.
                    "iscrowd": 0,
                }
            )
    info = {"description": f"dcam generated scenes, split {scenes.split}, size {scenes.size}"}
    listed = [{"id": number, "name": shape} for shape, number in categories.items()]
    _write(
        notes / f"instances_{scenes.split}.json",
        {"info": info, "images": images, "annotations": instances, "categories": listed},
    )
    _write(notes / f"captions_{scenes.split}.json", {"info": info, "images": images, "annotations": captions})
    return folder


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
