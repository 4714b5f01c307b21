"""Small folders in the formats that the shipped datasets read."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]
"""A polygon: 4 x 4 pixels, from column 2 and row 1."""

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 58, "name": "hot dog"}, {"id": 1, "name": "person"}]


def save_picture(path, size=(10, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(path, **options)


def save_labels(path, boxes, size=(10, 8)):
    """A label picture; `boxes` has for every label (x0, y0, x1, y1), far edges exclusive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(size[::-1], np.uint8)
    for label, (x0, y0, x1, y1) in boxes.items():
        labels[y0:y1, x0:x1] = label
    Image.fromarray(labels).save(path)


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def annotation(number, image, category, segmentation, **more):
    return {
        "id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more
    }  # fmt: skip


def coco(root, *, annotations=None, images=None, split="val2017", folder="val2017"):
    """Two pictures; a dog and a crowd of persons in the first, a hot dog in the second."""
    size = {"width": 10, "height": 8}
    listed = [{"id": number, "file_name": f"{number:012d}.jpg", **size} for number in (42, 7)]
    runs = {"size": [8, 10], "counts": [8, 16, 56]}
    notes = [
        annotation(1, 42, 18, [SQUARE]),
        annotation(2, 7, 58, [SQUARE]),
        annotation(3, 42, 1, runs, iscrowd=1),
    ]
    for image in listed if images is None else images:
        if isinstance(image, dict) and "file_name" in image:
            save_picture(root / folder / image["file_name"])
    save_json(
        root / "annotations" / f"instances_{split}.json",
        {
            "images": listed if images is None else images,
            "annotations": notes if annotations is None else annotations,
            "categories": CATEGORIES,
        },
    )
    return root


def captions(root, split="val2017"):
    texts = [
        (42, "a dog and two people"), (42, "an animal"), (7, " a hot dog on a plate\n"), (99, "of another split")
    ]  # fmt: skip
    save_json(
        root / "annotations" / f"captions_{split}.json",
        {
            "annotations": [
                {"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)
            ]
        },
    )
    return root


def coco_caption(root, split="val2017"):
    return captions(coco(root, split=split), split)


def coco_caption_labels(root):
    """Pictures in `image`, label pictures in `seg_label`."""
    captions(coco(root, split="minival2014", folder="image"), "val2014")
    save_labels(root / "seg_label/000000000042.png", {18: (2, 1, 6, 5), 1: (7, 0, 9, 8)})
    save_labels(root / "seg_label/000000000007.png", {37: (2, 1, 6, 5), 200: (0, 0, 1, 1)})
    return root


def grandf(root):
    """Phrases with one and two masks, one of them compressed, and one phrase without."""
    entry = {
        "file_name": "x.jpg",
        "height": 8,
        "width": 10,
        "caption": "A man in a red shirt holds a group of dogs.",
        "groundings": {
            "A man in a red shirt": {
                "token_positives": [[0, 20]],
                "rle_masks": [{"size": [8, 10], "counts": [0, 4, 76]}, {"size": [8, 10], "counts": [76, 4]}],
            },
            "a group of dogs": {
                "token_positives": [[27, 42]], "rle_masks": [{"size": [8, 10], "counts": [40, 8, 32]}]
            },
            "nobody": {"token_positives": [[0, 1]], "rle_masks": []},
        },
    }  # fmt: skip
    save_picture(root / "GranDf_HA_images/train/x.jpg")
    save_json(
        root / "annotations/train/GranDf_HA_GCG_train.json", [entry, {**entry, "file_name": "gone.jpg"}]
    )
    return root


def anno(root, names=None):
    """TAM's layout."""
    names = {"A man in a red shirt": 1, "the dogs": 2, "a cat": 3} if names is None else names
    save_picture(root / "images/x.jpg")
    save_labels(root / "labels/x.png", {1: (0, 0, 3, 3), 2: (5, 5, 9, 7)})
    save_json(root / "anno.json", [["images/x.jpg", "A man in a red shirt and dogs.", "labels/x.png", names]])
    return root


def openpsg(root):
    return anno(root, {"shirt-merged": 1, "wall-other-merged": 2})


def captioned(root):
    save_picture(root / "a.png")
    save_picture(root / "more/b.png", size=(6, 9))
    lines = [
        {"file_name": "a.png", "caption": "a cat"},
        {"file_name": "more/b.png", "caption": "a mat", "prompt": "what is it?"},
        {"file_name": "a.png", "caption": "the same cat"},
    ]
    (root / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return root


FOLDERS = {
    "captioned": captioned,
    "coco": coco,
    "coco-caption": coco_caption,
    "coco-caption-labels": coco_caption_labels,
    "grandf": grandf,
    "grandf-labels": anno,
    "openpsg": openpsg,
}
"""What writes a folder for each of the datasets that are read from one."""
