"""What a paper published: its tables as data, and what in dcam stands for each of their rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcam_core.errors import ConfigurationError

__all__ = [
    "Column",
    "Paper",
    "PublishedData",
    "PublishedModel",
    "PublishedTable",
    "PublishedVariant",
    "Reading",
    "Row",
    "read_paper",
]


@dataclass(frozen=True)
class PublishedModel:
    """The model that the figures were measured on.

    Attributes:
        title: as the paper calls it.
        family: the family of its adapter.
        parameters: least and largest number of parameters by which it is recognised.
        sampler: settings of its denoising run, where they are known; nothing is set by them.
    """

    title: str
    family: str
    parameters: list[float]
    sampler: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedData:
    """Data that figures were measured on.

    Attributes:
        title: as the paper calls them.
        readers: the datasets by which dcam reads them, each with the parameters that the published figures ask for.
        pictures: number of pictures by which the data are recognised; None: not known.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    readers: dict[str, dict[str, Any]]
    pictures: int | None = None
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        title: its heading.
        unit: behind the heading; "" for none.
        factor: what is printed is the mean times this; 100 for percent.
        meaning: what is measured.
        harmonic_mean_of: other columns, whose means it is the harmonic mean of, each divided by the number given
            and cut at 1. Empty: the column is the mean of a metric.
        decimals: digits behind the point, to which the published figures are rounded.
    """

    title: str
    unit: str = ""
    factor: float = 1.0
    meaning: str = ""
    harmonic_mean_of: dict[str, float] = field(default_factory=dict)
    decimals: int = 2

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Reading:
    """One understanding of what the figures are: as the paper says, or as its code computes.

    Attributes:
        title: how its figures are called in a table.
        metrics: column -> metric, with parameters as `dcam evaluate` takes them.
        meaning: what is measured.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    metrics: dict[str, str]
    meaning: str = ""
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PublishedVariant:
    """A method with other settings.

    Attributes:
        method: name of a method.
        settings: laid over it, nested.
    """

    method: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        published: column -> figure, as printed.
        methods: reading -> the method or variant that stands for the row.
        missing: reading -> why nothing does.
    """

    published: dict[str, float]
    methods: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedTable:
    """A table, or the part of one that is about one data set.

    Attributes:
        title: what it shows.
        dataset: which of the paper's data.
        rows: name -> row, in the order of the paper.
        compared_with: the row by which the others are judged.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    dataset: str
    rows: dict[str, Row]
    compared_with: str
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """A paper's tables.

    Attributes:
        title: of the paper.
        source: where the figures were read.
        model: what they were measured on.
        datasets: key -> data.
        columns: key -> column, in the order of the paper.
        readings: key -> reading.
        tables: in the order of the paper.
        variants: name -> method with other settings, for rows to name.
        remarks: what must be known to compare, a sentence each.
    """

    title: str
    source: str
    model: PublishedModel
    datasets: dict[str, PublishedData]
    columns: dict[str, Column]
    readings: dict[str, Reading]
    tables: list[PublishedTable]
    variants: dict[str, PublishedVariant] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def read_by(self, reader: str) -> str | None:
        """The key of the data that a dataset of dcam reads; None: none of the paper's."""
        return next((key for key, data in self.datasets.items() if reader in data.readers), None)


def read_paper(path: Path) -> Paper:
    """Read a paper's tables from a YAML file; docs/reproducing.md says what it holds.

    Raises:
        ConfigurationError: it cannot be read, a key is missing, unknown or of another type, or it speaks of what is
            not in it; the key is named.
    """
    try:
        # The structured configuration knows keys and types, and names those that do not fit.
        merged = OmegaConf.merge(OmegaConf.structured(Paper), OmegaConf.load(path))
        paper = cast(Paper, OmegaConf.to_object(merged))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the paper's file {path} cannot be read: {error}") from error
    except (OmegaConfBaseException, ValueError) as error:
        line = " ".join(str(error).split())
        raise ConfigurationError(f"the paper's file {path} does not hold a paper's tables: {line}") from error
    for complaint in _complaints(paper):
        raise ConfigurationError(f"the paper's file {path}: {complaint}")
    return paper


def _complaints(paper: Paper) -> Iterator[str]:
    """What the file speaks of and does not have."""
    plain = {key for key, column in paper.columns.items() if not column.harmonic_mean_of}
    for key, column in paper.columns.items():
        yield from _unknown(f"columns.{key}.harmonic_mean_of", column.harmonic_mean_of, plain)
    for key, reading in paper.readings.items():
        yield from _unknown(f"readings.{key}.metrics", reading.metrics, plain)
        for column_key in sorted(plain - set(reading.metrics)):
            yield f"readings.{key}.metrics names no metric for the column {column_key!r}"
    for number, table in enumerate(paper.tables):
        where = f"tables[{number}]"
        yield from _unknown(f"{where}.dataset", [table.dataset], paper.datasets)
        yield from _unknown(f"{where}.compared_with", [table.compared_with], table.rows)
        for name, row in table.rows.items():
            yield from _unknown(f"{where}.rows.{name}.published", row.published, paper.columns)
            yield from _unknown(f"{where}.rows.{name}", [*row.methods, *row.missing], paper.readings)


def _unknown(where: str, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    choices = list(known)
    yield from (
        f"{where} names {name!r}: there are {', '.join(sorted(choices))}"
        for name in names
        if name not in choices
    )
