"""What a dataset is: pictures, what is asked about them, and where the objects are that an answer may name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ExplanationDataset", "LeftOut", "Sample", "SampleObject"]


@dataclass(frozen=True, eq=False)
class SampleObject:
    """One object of a picture.

    Attributes:
        words: what the object is called, in lower case, the most specific name first: ("red circle", "circle").
            A name is a word or a phrase. Objects of one picture may share names.
        mask: [H, W] bool, the pixels of the picture that show it; at least one.
    """

    words: tuple[str, ...]
    mask: Tensor


@dataclass(frozen=True)
class LeftOut:
    """Something that the data hold and a dataset does not give.

    Attributes:
        what: which picture, annotation or line, as the data call it: "annotation 42 (dog)".
        why: the reason, the same words in every such case, so that cases can be counted by it: "its mask is empty".
        words: where it is an object, what it is called, as `SampleObject.words` has it: the picture shows it, though
            nobody knows where. Empty if it is none, or if its name is unknown.
    """

    what: str
    why: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, and what is known about it.

    Attributes:
        key: identifies the sample within its dataset, on one line; the same in every run and on every machine,
            because results are kept and continued under it.
        image: the picture, upright and RGB.
        prompt: what the model is asked.
        objects: the objects whose place is known; there may be none, and there may be more in the picture.
        caption: what is true of the picture, where the dataset has a text; it need not name every object.
        left_out: what the data say of this picture and could not be used, such as an annotation with an empty
            mask; the words for it name something whose place is unknown.
        absent: names of things that are certainly not in the picture, as `SampleObject.words` has them: words
            for them have no evidence to be found.
    """

    key: str
    image: Image
    prompt: str
    objects: Sequence[SampleObject]
    caption: str | None = None
    left_out: Sequence[LeftOut] = ()
    absent: Sequence[str] = ()


class ExplanationDataset(Dataset[Sample], ABC):
    """Pictures to explain answers about, with the truth that the maps are measured against.

    A sample depends on the dataset's parameters and its index alone: asked twice, in any order, in another
    process or run, it is the same. No global random state is used, and a dataset can be pickled, as a
    `torch.utils.data.DataLoader` with workers needs it.

    Subclasses take their parameters as keyword arguments of `__init__`; by convention `split` names the part of
    the data, and `root` the folder that it is read from. Objects without a single visible pixel are left out.

    Nothing is dropped in silence: what concerns whole pictures is found when the dataset is made and stands in
    `left_out`; what shows only when a picture is read stands in its `Sample.left_out`.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> class OneDot(ExplanationDataset):
        ...     def __len__(self):
        ...         return 1
        ...     def __getitem__(self, index):
        ...         if index != 0:
        ...             raise IndexError(f"sample {index} asked for, but there is only sample 0")
        ...         picture = Image.new("RGB", (4, 3), "white")
        ...         picture.putpixel((1, 2), (255, 0, 0))
        ...         mask = torch.zeros(3, 4, dtype=torch.bool)
        ...         mask[2, 1] = True
        ...         dot = SampleObject(("red dot", "dot"), mask)
        ...         return Sample("0", picture, "describe the picture", (dot,), "a red dot")
        >>> [sample.caption for sample in OneDot()]
        ['a red dot']
    """

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Pictures, and annotations without a picture, that the data name and the dataset does not give."""
        return ()

    @property
    def categories(self) -> Sequence[tuple[str, ...]]:
        """The names of every class of objects that is annotated throughout, each as in `SampleObject.words`.

        With them a word can be told to name something of which the picture shows nothing, and "dog" in "hot
        dog" to be no dog. Empty where every picture has names of its own.
        """
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples, at least 1."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample of an index.

        Args:
            index: 0 to `len(self) - 1`.

        Raises:
            IndexError: there is no such sample; a `for` loop over the dataset ends by it.
        """
