"""The kit for datasets: for every promise there is something that breaks it, and the kit says how."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image
from support.promises import PromisesOfTheKit

from dcam_core import ExplanationDataset, LeftOut, Sample, SampleObject
from dcam_core.conformance import NotApplicableError
from dcam_core.testing.datasets import CHECKS


class ProperDataset(ExplanationDataset):
    """Three pictures with a dot."""

    categories = (("dot",), ("dash", "line"))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        mask = torch.zeros(4, 6, dtype=torch.bool)
        mask[index, 2] = True
        picture = Image.new("RGB", (6, 4), "white")
        picture.putpixel((2, index), (255, 0, 0))
        return Sample(
            f"dot-{index}", picture, "what is it?", (SampleObject(("red dot", "dot"), mask),), "a dot"
        )


class WithSamples(ProperDataset):
    """Proper, but for a change of its samples."""

    def __init__(self, *, change):
        self.change = change

    def __getitem__(self, index):
        return self.change(index, super().__getitem__(index))


def with_fields(**fields):
    return WithSamples(change=lambda index, sample: dataclasses.replace(sample, **fields))


def with_object(**fields):
    def change(index, sample):
        return dataclasses.replace(sample, objects=(dataclasses.replace(sample.objects[0], **fields),))

    return WithSamples(change=change)


def as_a_dictionary(index, sample):
    return {"key": sample.key, "image": sample.image}


class Nothing(ProperDataset):
    def __len__(self):
        return 0


class Endless(ProperDataset):
    def __getitem__(self, index):
        return super().__getitem__(index % 3)


class Wandering(ProperDataset):
    calls = 0

    def __getitem__(self, index):
        self.calls += 1
        return dataclasses.replace(super().__getitem__(index), prompt=f"question {self.calls}")


class DrawsGlobally(ProperDataset):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        random.seed(index)
        return sample


class PositionalDataset(ProperDataset):
    def __init__(self, *roots):
        pass


class WithCategories(ProperDataset):
    def __init__(self, *, categories=()):
        self._categories = categories

    @property
    def categories(self):
        return self._categories


class LeavesOut(ProperDataset):
    left_out = (LeftOut("", "broken"),)


EMPTY = torch.zeros(4, 6, dtype=torch.bool)

BROKEN = {
    "length": [(Nothing(), r"len is 0")],
    "end": [(Endless(), r"sample 3 of 3 is 'dot-0': raise an IndexError")],
    "types": [
        (WithSamples(change=as_a_dictionary), r"sample 0 is a dict, expected a Sample"),
        (with_fields(objects=({"words": ("dot",)},)), r"sample 0 has objects of type dict"),
    ],
    "keys": [
        (with_fields(key="dot"), r"samples 0 and 1 have the same key 'dot'"),
        (with_fields(key="a\nb"), r"the key of sample 0 is 'a\\nb'"),
        (with_fields(key=7), r"the key of sample 0 is 7"),
    ],
    "again": [
        (Wandering(), r"sample 2, asked for twice, has different prompt 'question 3' and 'question 4'")
    ],
    "workers": [(with_fields(caption="a dot"), r"it cannot be pickled, as a DataLoader's workers need it")],
    "pictures": [
        (with_fields(image=Image.new("L", (6, 4))), r"the picture of sample 0 is L: convert it to RGB"),
        (with_fields(image=np.zeros((4, 6, 3))), r"the picture of sample 0 is a ndarray"),
    ],
    "prompts": [(with_fields(prompt=" "), r"the prompt of sample 0 is ' '")],
    "words": [
        (with_object(words=()), r"object 0 of sample 0 has the words \(\)"),
        (with_object(words="dot"), r"has the words 'dot': give a tuple"),
        (with_object(words=("Red Dot",)), r"write them in lower case"),
        (with_object(words=("dot", "dot")), r"has a word twice"),
    ],
    "masks": [
        (with_object(mask=EMPTY), r"the mask of object 0 of sample 0 \('red dot'\) is empty"),
        (with_object(mask=EMPTY.mT), r"is \[6, 4\], but its picture is \[height, width\] = \[4, 6\]"),
        (with_object(mask=EMPTY.float()), r"\[4, 6\] torch.float32 on cpu, expected a bool tensor"),
        (with_object(mask=EMPTY.numpy()), r"is a ndarray, expected a bool tensor"),
    ],
    "captions": [
        (with_fields(caption="a cat"), r"in none of 3 captions occurs a word of the sample's objects"),
        (with_fields(caption="two polkadots"), r"in none of 3 captions"),
        (with_fields(caption=""), r"the caption of sample 0 is ''"),
    ],
    "categories": [
        (
            WithCategories(categories=(("dash",),)),
            r"object 0 of sample 0 is called \('red dot', 'dot'\), of which no category",
        ),
        (WithCategories(categories=(("Dot",), ("dot",))), r"the categories have the words \['Dot'\]"),
    ],
    "left-out": [
        (with_fields(left_out=("annotation 3",)), r"'annotation 3' is left out: give a LeftOut"),
        (with_fields(left_out=(LeftOut("annotation 3", " "),)), r"does not say what is left out and why"),
        (LeavesOut(), r"LeftOut\(what='', why='broken', words=\(\)\) does not say"),
        (
            with_fields(absent=("dot", "line")),
            r"sample 0 has objects called \['dot'\], which it says are absent",
        ),
        (with_fields(absent=("Blue line",)), r"sample 0 says \['Blue line'\] are absent: write them"),
    ],
    "random-state": [(DrawsGlobally(), r"random state of random: use")],
    "keywords": [(PositionalDataset(), r"takes roots by position alone")],
}


class TestPromises(PromisesOfTheKit):
    checks, proper, broken = CHECKS, ProperDataset, BROKEN


def test_pictures_alone_are_a_dataset_and_what_they_lack_is_not_asked():
    pictures = with_fields(objects=(), caption=None)
    by_name = {check.name: check for check in CHECKS}
    for name in ("words", "masks", "captions"):
        with pytest.raises(NotApplicableError, match="no examined sample has"):
            by_name[name](pictures)
    assert by_name["types"](pictures)
