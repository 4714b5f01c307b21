"""What of a paper's figures can be compared with what was found, and where they contradict themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dcam_core.published.figures import harmonic_mean
from dcam_core.published.paper import Column, Paper, Row

__all__ = ["contradictions", "sampler_remark", "why_not_comparable"]

_MILLION = 1e6


def why_not_comparable(
    paper: Paper, dataset: str, request: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[str]:
    """Why figures of an evaluation must not be taken for those of the paper; a clause each.

    An empty list does not say that they can: no file tells which checkpoint and which pictures a paper had.

    Args:
        paper: the paper.
        dataset: key of its data.
        request: what the evaluation was asked for, of its `run.json`.
        facts: what came of it, of its `run.json`.
    """
    reasons = []
    model, published = facts["model"], paper.model
    least, most = published.parameters
    if model["family"] != published.family:
        reasons.append(f"{model['name']} is not {published.title}, it is of the family {model['family']}")
    elif not least <= model["parameters"] <= most:
        size = model["parameters"] / _MILLION
        reasons.append(f"{model['name']} is not {published.title}, it has {size:,.0f} million parameters")
    data = paper.datasets[dataset]
    parameters = dict(request["dataset"])
    wanted = data.readers[parameters.pop("name")]
    for key, value in wanted.items():
        if parameters.get(key) != value:
            reasons.append(f"{key} is {parameters.get(key)!r}, the published figures are of {value!r}")
    there = facts["samples_in_the_dataset"]
    if data.pictures is not None and there + sum(facts["left_out_of_the_dataset"].values()) < data.pictures:
        reasons.append(f"the folder holds {there} pictures, {data.title} has {data.pictures}")
    return reasons


def sampler_remark(paper: Paper, facts: Mapping[str, Any]) -> Iterator[str]:
    """How the answers were written otherwise than the published ones, as far as that is known."""
    own = facts["sampler"]
    other = {key: value for key, value in paper.model.sampler.items() if own.get(key) != value}
    if other:
        there = ", ".join(f"{key}={value}" for key, value in other.items())
        here = ", ".join(f"{key}={own.get(key)}" for key in other)
        yield f"the published answers were written with {there}; these with {here} (--sampler changes it)"


def contradictions(paper: Paper) -> Iterator[str]:
    """Where the published figures do not fit each other, rounding allowed for."""
    for table in paper.tables:
        for name, row in table.rows.items():
            for key, column in paper.columns.items():
                if column.harmonic_mean_of:
                    yield from _of_its_columns(paper, f"{table.title}, {name}", row, key, column)
    named = [(table, name, row) for table in paper.tables for name, row in table.rows.items()]
    for (table, name, row), (other, other_name, other_row) in itertools.combinations(named, 2):
        if table.dataset != other.dataset or not row.methods or row.methods != other_row.methods:
            continue
        for key, column in paper.columns.items():
            one, two = row.published.get(key), other_row.published.get(key)
            if one is not None and two is not None and one != two:
                yield (
                    f"{name} ({table.title}) and {other_name} ({other.title}) are one method on the same data: "
                    f"{column.title} is printed as {one:.{column.decimals}f} and {two:.{column.decimals}f}"
                )


def _of_its_columns(paper: Paper, where: str, row: Row, key: str, column: Column) -> Iterator[str]:
    """A harmonic mean that its own columns cannot give."""
    printed = row.published.get(key)
    if printed is None or any(part not in row.published for part in column.harmonic_mean_of):
        return
    ends = []
    for sign in (-1, 1):
        parts = [
            (row.published[part] + sign * _half_a_unit(paper.columns[part]))
            / paper.columns[part].factor
            / perfect
            for part, perfect in column.harmonic_mean_of.items()
        ]
        ends.append(float(harmonic_mean(np.minimum(np.array(parts), 1.0))) * column.factor)
    half = _half_a_unit(column)
    if printed + half < ends[0] or printed - half > ends[1]:
        digits = column.decimals
        yield (
            f"{where}: {column.title} is printed as {printed:.{digits}f}, and its columns give "
            f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
        )


def _half_a_unit(column: Column) -> float:
    """By how much a printed figure may be off for being rounded."""
    return 0.5 * 10.0**-column.decimals
