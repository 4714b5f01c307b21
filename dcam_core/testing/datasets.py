"""The promises of a dataset as tests."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dcam_core.conformance.check import BrokenPromiseError, Check, NotApplicableError, expect
from dcam_core.dataset import ExplanationDataset, LeftOut, Sample, SampleObject
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance

__all__ = ["DatasetConformance"]

EXAMINED = 12
"""Samples that are looked at, spread evenly from the first to the last: a dataset may have a hundred thousand."""


def _indices(dataset: ExplanationDataset) -> list[int]:
    last = len(dataset) - 1
    return sorted({round(last * step / (EXAMINED - 1)) for step in range(EXAMINED)}) if last >= 0 else []


def _samples(dataset: ExplanationDataset) -> Iterator[tuple[int, Sample]]:
    """The examined samples, each with its index."""
    for index in _indices(dataset):
        yield index, dataset[index]


def _objects(dataset: ExplanationDataset) -> Iterator[tuple[str, Sample, SampleObject]]:
    """Where an object stands, for messages; its sample; the object."""
    for index, sample in _samples(dataset):
        for number, each in enumerate(sample.objects):
            yield f"object {number} of sample {index}", sample, each


def _difference(first: Sample, second: Sample) -> str | None:
    """In what two samples differ; None: in nothing."""
    texts = ("key", "prompt", "caption", "left_out", "absent")
    for name in texts:
        if getattr(first, name) != getattr(second, name):
            return f"{name} {getattr(first, name)!r} and {getattr(second, name)!r}"
    if not np.array_equal(np.asarray(first.image), np.asarray(second.image)):
        return "pictures"
    if [each.words for each in first.objects] != [each.words for each in second.objects]:
        return "the words of the objects"
    masks = zip(first.objects, second.objects, strict=True)
    return None if all(torch.equal(one.mask, other.mask) for one, other in masks) else "masks"


def _length(dataset: ExplanationDataset) -> str:
    """There is at least one sample."""
    count = len(dataset)
    expect(count >= 1, f"len is {count}: a dataset without samples explains nothing")
    return f"{count} samples"


def _end(dataset: ExplanationDataset) -> str:
    """Behind the last sample there is an IndexError, which ends a `for` loop."""
    for index in (len(dataset), len(dataset) + 1000):
        try:
            sample = dataset[index]
        except IndexError:
            continue
        except Exception as error:
            raise BrokenPromiseError(
                f"sample {index} of {len(dataset)} ends in {type(error).__name__}: {error}; raise an IndexError"
            ) from error
        raise BrokenPromiseError(f"sample {index} of {len(dataset)} is {sample.key!r}: raise an IndexError")
    return "IndexError"


def _types(dataset: ExplanationDataset) -> str:
    """Samples are `Sample`s, and their objects `SampleObject`s."""
    for index, sample in _samples(dataset):
        expect(isinstance(sample, Sample), f"sample {index} is a {type(sample).__name__}, expected a Sample")
        others = {type(each).__name__ for each in sample.objects if not isinstance(each, SampleObject)}
        expect(
            not others,
            f"sample {index} has objects of type {', '.join(sorted(others))}, expected SampleObject",
        )
    return f"{len(_indices(dataset))} samples"


def _keys(dataset: ExplanationDataset) -> str:
    """Keys are one line of text, and no two are the same."""
    seen: dict[str, int] = {}
    for index, sample in _samples(dataset):
        key = sample.key
        expect(
            isinstance(key, str) and key.strip() == key != "" and key.isprintable(),
            f"the key of sample {index} is {key!r}: give one line of text without blanks around it",
        )
        expect(key not in seen, f"samples {seen.get(key)} and {index} have the same key {key!r}")
        seen[key] = index
    return f"{len(seen)} keys, such as {next(iter(seen))!r}"


def _again(dataset: ExplanationDataset) -> str:
    """A sample asked for twice is the same, whatever was asked for in between."""
    first = list(_samples(dataset))
    for index, sample in reversed(first):
        difference = _difference(sample, dataset[index])
        expect(difference is None, f"sample {index}, asked for twice, has different {difference}")
    return f"{len(first)} samples"


def _workers(dataset: ExplanationDataset) -> str:
    """A pickled dataset, as a worker process gets it, has the same samples."""
    try:
        read = pickle.loads(pickle.dumps(dataset))  # noqa: S301  (what was written the line before)
    except Exception as error:
        raise BrokenPromiseError(
            f"it cannot be pickled, as a DataLoader's workers need it: {type(error).__name__}: {error}"
        ) from error
    expect(len(read) == len(dataset), f"pickled, it has {len(read)} samples instead of {len(dataset)}")
    for index, sample in reversed(list(_samples(dataset))):
        difference = _difference(sample, read[index])
        expect(difference is None, f"sample {index} of a pickled copy has other {difference}")
    return f"{len(_indices(dataset))} samples"


def _pictures(dataset: ExplanationDataset) -> str:
    """Pictures are RGB, and upright already."""
    sizes = set()
    for index, sample in _samples(dataset):
        image = sample.image
        expect(isinstance(image, Image.Image), f"the picture of sample {index} is {_calls.found(image)}")
        expect(image.mode == "RGB", f"the picture of sample {index} is {image.mode}: convert it to RGB")
        turned = image.getexif().get(0x0112, 1)
        expect(turned == 1, f"the picture of sample {index} has EXIF orientation {turned}: turn it upright")
        sizes.add(image.size)
    return f"{len(sizes)} different sizes"


def _prompts(dataset: ExplanationDataset) -> str:
    """Every sample asks something."""
    for index, sample in _samples(dataset):
        expect(
            isinstance(sample.prompt, str) and bool(sample.prompt.strip()),
            f"the prompt of sample {index} is {sample.prompt!r}: ask something",
        )
    return f"such as {dataset[0].prompt!r}"


def _words(dataset: ExplanationDataset) -> str:
    """Objects have names: a tuple of different words or phrases in lower case."""
    count = 0
    for where, _, each in _objects(dataset):
        words = each.words
        expect(
            isinstance(words, tuple) and len(words) > 0 and all(isinstance(word, str) for word in words),
            f"{where} has the words {words!r}: give a tuple of at least one",
        )
        odd = _oddly_written(words)
        expect(not odd, f"{where} has the words {odd}: write them in lower case, with single blanks")
        expect(len(set(words)) == len(words), f"{where} has a word twice: {words!r}")
        count += 1
    return _of_objects(count)


def _oddly_written(words: Iterable[str]) -> list[str]:
    return [word for word in words if word != " ".join(word.lower().split()) or not word]


def _categories(dataset: ExplanationDataset) -> str:
    """Where classes are listed, every object has a name of one of them, and names are well written."""
    categories = list(dataset.categories)
    if not categories:
        raise NotApplicableError("no classes are listed")
    odd = _oddly_written(word for words in categories for word in words)
    expect(not odd, f"the categories have the words {odd}: write them in lower case, with single blanks")
    for where, _, each in _objects(dataset):
        expect(
            any(set(each.words) & set(words) for words in categories),
            f"{where} is called {each.words!r}, of which no category has a name: list all of them",
        )
    return f"{len(categories)} categories"


def _left_out(dataset: ExplanationDataset) -> str:
    """What is left out is said with a reason, and is not among what is called absent."""
    said = [*dataset.left_out]
    for index, sample in _samples(dataset):
        said += sample.left_out
        named = {word for each in sample.objects for word in each.words} & set(sample.absent)
        expect(not named, f"sample {index} has objects called {sorted(named)}, which it says are absent")
        odd = _oddly_written(sample.absent)
        expect(not odd, f"sample {index} says {odd} are absent: write them in lower case, with single blanks")
    for each in said:
        expect(isinstance(each, LeftOut), f"{each!r} is left out: give a LeftOut that says what and why")
        expect(
            bool(each.what.strip()) and bool(each.why.strip()),
            f"{each!r} does not say what is left out and why",
        )
    return f"{len(said)} things, in as far as they were looked at"


def _masks(dataset: ExplanationDataset) -> str:
    """Masks are bool tensors of the picture's size, with at least one pixel."""
    count = 0
    for where, sample, each in _objects(dataset):
        size = (sample.image.height, sample.image.width)
        mask = each.mask
        expect(
            isinstance(mask, Tensor) and mask.dtype == torch.bool,
            f"the mask of {where} is {_calls.found(mask)}, expected a bool tensor",
        )
        expect(
            tuple(mask.shape) == size,
            f"the mask of {where} is {list(mask.shape)}, but its picture is [height, width] = {list(size)}",
        )
        expect(bool(mask.any()), f"the mask of {where} ({each.words[0]!r}) is empty: leave the object out")
        count += 1
    return _of_objects(count)


def _captions(dataset: ExplanationDataset) -> str:
    """A caption is a text, and the objects' words are words of the captions: some of them occur."""
    named, comparable = 0, 0
    for index, sample in _samples(dataset):
        caption = sample.caption
        if caption is None:
            continue
        expect(
            isinstance(caption, str) and bool(caption.strip()),
            f"the caption of sample {index} is {caption!r}: give a text, or None",
        )
        comparable += bool(sample.objects)
        words = {word for each in sample.objects for word in each.words}
        named += any(re.search(rf"\b{re.escape(word)}\b", caption, re.IGNORECASE) for word in words)
    if not comparable:
        raise NotApplicableError("no examined sample has both a caption and objects")
    expect(
        named > 0,
        f"in none of {comparable} captions occurs a word of the sample's objects: are they names as people write "
        "them?",
    )
    return f"{named} of {comparable} captions name an object"


def _random_state(dataset: ExplanationDataset) -> str:
    """No global random state is touched."""
    return _calls.random_states_untouched(lambda: list(_samples(dataset)))


def _keywords(dataset: ExplanationDataset) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(dataset)


def _of_objects(count: int) -> str:
    if not count:
        raise NotApplicableError("no examined sample has objects")
    return f"{count} objects"


CHECKS: tuple[Check[ExplanationDataset], ...] = (
    Check("length", _length),
    Check("end", _end),
    Check("types", _types),
    Check("keys", _keys),
    Check("again", _again),
    Check("workers", _workers),
    Check("pictures", _pictures),
    Check("prompts", _prompts),
    Check("words", _words),
    Check("masks", _masks),
    Check("captions", _captions),
    Check("categories", _categories),
    Check("left-out", _left_out),
    Check("random-state", _random_state),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.ExplanationDataset`."""


class DatasetConformance(Conformance):
    """One test per promise of the contract of a dataset.

    Override the fixture `dataset`:

        class TestMine(DatasetConformance):
            @pytest.fixture
            def dataset(self):
                return Mine(root="tests/data", split="validation")

    Up to `EXAMINED` samples are looked at, from the first to the last.
    """

    checks = CHECKS

    @pytest.fixture
    def dataset(self) -> ExplanationDataset:
        """The dataset under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `dataset`")

    @pytest.fixture
    def subject(self, dataset: ExplanationDataset) -> ExplanationDataset:
        """What is held to the promises."""
        return dataset
