"""A plugin with a dataset for the toy: every word that it may answer with names something in the picture.

Two files in the folder `root` steer it: where `hold` is, sample 2 makes `reached` and waits until `hold` is gone, so
that a run can be killed at a known place; the picture of sample 1 is `picture-1.png`, if it is there.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from dcam_core.dataset import ExplanationDataset, LeftOut, Sample, SampleObject
from dcam_core.hookspecs import hookimpl
from dcam_core.picture import read_picture
from dcam_core.testing.toy import WORDS, toy_picture

__all__ = ["ToyThings", "dcam_register_datasets"]

PROMPTS = ("the blue moon", "one red star", "two green circle", "left of the square")


class ToyThings(ExplanationDataset):
    def __init__(self, *, root: str, split: str = "all", broken: int = 0) -> None:
        self.root, self.split, self.broken = Path(root), split, broken

    def __len__(self) -> int:
        return len(PROMPTS)

    def __getitem__(self, index: int) -> Sample:
        if index == 2 and (self.root / "hold").exists():
            (self.root / "reached").touch()
            while (self.root / "hold").exists():
                time.sleep(0.02)
        own = self.root / "picture-1.png"
        picture = read_picture(own) if index == 1 and own.exists() else toy_picture()
        left_out = [LeftOut(f"annotation {number}", "its mask is empty") for number in range(self.broken)]
        return Sample(
            f"things-{index}", picture, PROMPTS[index], things(), left_out=left_out if index == 1 else ()
        )

    @property
    def left_out(self) -> list[LeftOut]:
        return [LeftOut("picture 9", "it is missing")] if self.broken else []


def things() -> tuple[SampleObject, ...]:
    """A rectangle for every word but "yes" and "no"."""
    found = []
    for number, word in enumerate(word for word in WORDS if word not in ("yes", "no", ",")):
        mask = torch.zeros(36, 48, dtype=torch.bool)
        x, y = 9 * (number % 5), 8 * (number // 5)
        mask[y : y + 10, x : x + 12] = True
        found.append(SampleObject((word,), mask))
    return tuple(found)


@hookimpl
def dcam_register_datasets(register):
    register("toy-things", "support.toy_things:ToyThings")
