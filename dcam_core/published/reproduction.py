"""A paper's tables beside what was found: plain records, made by `reproducing.py` and shown by `tables.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dcam_core.evaluation.summary import Estimate

__all__ = ["Measured", "MeasuredRow", "MeasuredTable", "Reproduction"]


@dataclass(frozen=True)
class MeasuredRow:
    """A row of a table.

    Attributes:
        name: as the paper has it, or the label of a method that the paper does not have.
        published: column -> figure as printed; empty if the paper does not have the row.
        published_changes: column -> what the figure has more than that of the row it is compared with.
        methods: reading -> the method that stood for it.
        missing: reading -> why nothing did.
        found: reading -> column -> what was measured.
        changes: reading -> column -> the same, against the row it is compared with.
    """

    name: str
    published: Mapping[str, float] = field(default_factory=dict)
    published_changes: Mapping[str, float] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a table was measured on.

    Attributes:
        model: name of the model.
        dataset: name of the dataset that read the data.
        parameters: of that dataset.
        pictures: number of pictures that the model answered to.
        words: number of words that name something in them.
        not_comparable: why the figures must not be taken for the paper's, a clause each; empty if nothing is known
            that speaks against it.
        folder: name of the evaluation's folder.
    """

    model: str
    dataset: str
    parameters: Mapping[str, Any]
    pictures: int
    words: int
    not_comparable: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class MeasuredTable:
    """A table of the paper.

    Attributes:
        title: what it shows.
        data: what it is about, as the paper calls it.
        readers: the datasets that read these data.
        compared_with: the row by which the others are judged.
        rows: those of the paper in its order, and behind them those that it does not have.
        measured: what it was measured on; None: it was not.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    data: str
    readers: tuple[str, ...]
    compared_with: str
    rows: tuple[MeasuredRow, ...]
    measured: Measured | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Reproduction:
    """A paper's tables beside what was found.

    Attributes:
        title: of the paper.
        source: where its figures were read.
        headings: column -> heading.
        decimals: column -> digits behind the point.
        readings: reading -> title.
        meanings: reading -> what it measures.
        tables: in the order of the paper.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    source: str
    headings: Mapping[str, str]
    decimals: Mapping[str, int]
    readings: Mapping[str, str]
    meanings: Mapping[str, str]
    tables: tuple[MeasuredTable, ...]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
