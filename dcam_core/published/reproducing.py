"""Measure a paper's tables anew: what `dcam reproduce` does, for Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dcam_core.errors import ConfigurationError
from dcam_core.evaluation import Variant, evaluate
from dcam_core.evaluation.model_source import ModelSource
from dcam_core.plugins import default_manager
from dcam_core.plugins.making import make
from dcam_core.published.comparing import contradictions, sampler_remark, why_not_comparable
from dcam_core.published.figures import Figures, figures
from dcam_core.published.paper import Paper, PublishedTable, Row
from dcam_core.published.reproduction import Measured, MeasuredRow, MeasuredTable, Reproduction
from dcam_core.published.tables import markdown

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.plugins import PluginManager
    from dcam_core.progress import Progress

__all__ = ["published", "reproduce"]


class _Evaluated(NamedTuple):
    """An evaluation on disk.

    Attributes:
        folder: where it lies.
        request: what was asked for, as in its `run.json`.
        facts: what came of it, likewise.
        rows: the lines of its `words.jsonl`.
        pictures: number of pictures that were answered to.
        words: number of scored words.
        also: labels of the methods that the user added.
        bounds: labels of what knows nothing of the model, and of the objects' own masks.
        seed: of the bootstrap.
    """

    folder: Path
    request: dict[str, Any]
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    pictures: int
    words: int
    also: tuple[str, ...]
    bounds: tuple[str, ...]
    seed: int


def published(paper: Paper) -> Reproduction:
    """A paper's tables with nothing beside them, and what would have to be given to measure them."""
    return _reproduction(paper, {})


def reproduce(
    paper: Paper,
    model: Adapter | str | Path,
    data: Mapping[str, Mapping[str, Any]],
    out: str | Path,
    *,
    also: Sequence[str | Path | Variant] = (),
    limit: int | None = None,
    sampler: Mapping[str, Any] | None = None,
    seed: int = 0,
    loading: Mapping[str, Any] | None = None,
    manager: PluginManager | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Measure those tables of a paper for which there are data, and set them beside the published ones.

    The model is loaded once. For each of the data there is one evaluation, in a folder of its own: the model
    answers once per picture, and every method of every table explains this answer. The same call continues what was
    cut off, and shows what is finished without loading the model.

    Args:
        paper: from `read_paper`.
        model: a loaded model, or what `dcam_core.load_model` takes.
        data: names of datasets that read the paper's data, each with its parameters, such as `root`. What the
            published figures ask for is added to them, unless it is given here.
        out: the folder.
        also: further methods, shown below the paper's rows.
        limit: only the first pictures of each.
        sampler: settings of the denoising run that differ from the model's own.
        seed: of the sampler and of the bootstrap.
        loading: further keywords for `dcam_core.load_model`.
        manager: the plugins; None: all that are installed.
        progress: called after every picture.

    Returns:
        The tables; also written as `reproduction.json` and `reproduction.md`.

    Raises:
        ConfigurationError: no data are given, or such as no table is about; a setting is wrong.
        UnknownNameError: no such dataset, method, metric or model.
        UsageError: the folder holds something else.
    """
    manager = manager or default_manager()
    parts = _parts(paper, data)
    out = Path(out).expanduser()
    for name, parameters in parts.values():
        if not (out / name).exists():
            # All data are looked at before the first of them is worked on for hours.
            make(manager.registries.datasets.entry(name), parameters)
    source = ModelSource(model, loading or {}, manager)
    found = {
        key: _evaluate(
            paper,
            key,
            name,
            parameters,
            source,
            out / name,
            also,
            limit=limit,
            sampler=sampler,
            seed=seed,
            manager=manager,
            progress=progress,
        )
        for key, (name, parameters) in parts.items()
    }
    reproduction = _reproduction(paper, found)
    text = json.dumps(reproduction.as_dict(), indent=2, ensure_ascii=False)
    (out / "reproduction.json").write_text(text + "\n", encoding="utf-8")
    (out / "reproduction.md").write_text(markdown(reproduction) + "\n", encoding="utf-8")
    return reproduction


def _parts(paper: Paper, data: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Key of the paper's data -> (dataset, parameters)."""
    if not data:
        raise ConfigurationError(f"no data are given: give at least one of {_readers(paper)}")
    parts: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, parameters in data.items():
        key = paper.read_by(name)
        if key is None:
            raise ConfigurationError(
                f"no table of {paper.title!r} is about the dataset {name!r}: there are {_readers(paper)}"
            )
        if key in parts:
            raise ConfigurationError(
                f"{parts[key][0]!r} and {name!r} both read {paper.datasets[key].title}: give one of the two"
            )
        parts[key] = (name, {**paper.datasets[key].readers[name], **parameters})
    return parts


def _readers(paper: Paper) -> str:
    return "; ".join(f"{' or '.join(data.readers)} for {data.title}" for data in paper.datasets.values())


def _evaluate(
    paper: Paper,
    key: str,
    name: str,
    parameters: Mapping[str, Any],
    source: ModelSource,
    folder: Path,
    also: Sequence[str | Path | Variant],
    *,
    limit: int | None,
    sampler: Mapping[str, Any] | None,
    seed: int,
    manager: PluginManager,
    progress: Progress | None,
) -> _Evaluated:
    """All methods of all tables about one of the data, on the same answers."""
    rows = [row for table in paper.tables if table.dataset == key for row in table.rows.values()]
    named = dict.fromkeys(method for row in rows for method in row.methods.values())
    methods = [_method(paper, method) for method in named]
    metrics = dict.fromkeys(
        label for reading in paper.readings.values() for label in reading.metrics.values()
    )
    further = [each for each in also if not isinstance(each, str) or each not in named]
    summary = evaluate(
        source,
        name,
        [*methods, *further],
        folder,
        dataset_parameters=parameters,
        limit=limit,
        metrics=list(metrics),
        sampler=sampler,
        seed=seed,
        manager=manager,
        progress=progress,
    )
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    # Behind the paper's methods and those of the user come the baselines.
    behind = list(summary.methods)[len(methods) :]
    lines = (folder / "words.jsonl").read_text(encoding="utf-8").splitlines()
    return _Evaluated(
        folder=folder,
        request=run["request"],
        facts=run["facts"],
        rows=[json.loads(line) for line in lines],
        pictures=summary.samples,
        words=summary.words,
        also=tuple(behind[: len(further)]),
        bounds=tuple(behind[len(further) :]),
        seed=seed,
    )


def _method(paper: Paper, name: str) -> str | Variant:
    """A method that a row names: a variant of the paper's own, or one that is registered."""
    variant = paper.variants.get(name)
    return name if variant is None else Variant(name, variant.method, variant.settings)


def _reproduction(paper: Paper, found: Mapping[str, _Evaluated]) -> Reproduction:
    readings = paper.readings
    remarks = [
        *paper.remarks,
        *(f"{reading.title}: {remark}" for reading in readings.values() for remark in reading.remarks),
        *(f"the published figures contradict themselves: {each}" for each in contradictions(paper)),
    ]
    return Reproduction(
        title=paper.title,
        source=paper.source,
        headings={key: column.heading for key, column in paper.columns.items()},
        decimals={key: column.decimals for key, column in paper.columns.items()},
        readings={key: reading.title for key, reading in readings.items()},
        meanings={key: reading.meaning for key, reading in readings.items()},
        tables=tuple(_table(paper, table, found.get(table.dataset)) for table in paper.tables),
        remarks=tuple(remarks),
    )


def _table(paper: Paper, table: PublishedTable, evaluated: _Evaluated | None) -> MeasuredTable:
    """One table, with what was found where there is something."""
    data = paper.datasets[table.dataset]
    found = {} if evaluated is None else _found(paper, table, evaluated)
    rows = [_row(name, row, table.rows[table.compared_with], found) for name, row in table.rows.items()]
    remarks = [*table.remarks, *data.remarks]
    if evaluated is not None:
        rows += [_further(method, found, compared=True) for method in evaluated.also]
        rows += [_further(method, found, compared=False) for method in evaluated.bounds]
        remarks += _remarks(paper, evaluated)
    return MeasuredTable(
        title=table.title,
        data=data.title,
        readers=tuple(data.readers),
        compared_with=table.compared_with,
        rows=tuple(rows),
        measured=None if evaluated is None else _measured(paper, table.dataset, evaluated),
        remarks=tuple(remarks),
    )


def _found(paper: Paper, table: PublishedTable, evaluated: _Evaluated) -> dict[str, Figures]:
    """Reading -> figures of the methods that stand for the table's rows in it, and of the further ones."""
    found = {}
    for key, reading in paper.readings.items():
        own = dict.fromkeys(row.methods[key] for row in table.rows.values() if key in row.methods)
        if own:
            found[key] = figures(
                evaluated.rows,
                [*own, *evaluated.also, *evaluated.bounds],
                paper.columns,
                reading.metrics,
                compared_with=table.rows[table.compared_with].methods.get(key),
                seed=evaluated.seed,
            )
    return found


def _row(name: str, row: Row, base: Row, found: Mapping[str, Figures]) -> MeasuredRow:
    """A row of the paper."""
    own = {key: (found[key], method) for key, method in row.methods.items() if key in found}
    apart = {} if row is base else own
    return MeasuredRow(
        name=name,
        published=row.published,
        published_changes={
            column: figure - base.published[column]
            for column, figure in row.published.items()
            if row is not base and column in base.published
        },
        methods=row.methods,
        missing=row.missing,
        found={key: each.values[method] for key, (each, method) in own.items()},
        changes={key: each.changes[method] for key, (each, method) in apart.items() if each.changes},
    )


def _further(method: str, found: Mapping[str, Figures], *, compared: bool) -> MeasuredRow:
    """A row that the paper does not have; what is only there as a bound is compared with nothing."""
    return MeasuredRow(
        name=method,
        methods=dict.fromkeys(found, method),
        found={key: each.values[method] for key, each in found.items()},
        changes={key: each.changes[method] for key, each in found.items() if compared and each.changes},
    )


def _measured(paper: Paper, dataset: str, evaluated: _Evaluated) -> Measured:
    parameters = dict(evaluated.request["dataset"])
    return Measured(
        model=evaluated.facts["model"]["name"],
        dataset=parameters.pop("name"),
        parameters=parameters,
        pictures=evaluated.pictures,
        words=evaluated.words,
        not_comparable=tuple(why_not_comparable(paper, dataset, evaluated.request, evaluated.facts)),
        folder=evaluated.folder.name,
    )


def _remarks(paper: Paper, evaluated: _Evaluated) -> Iterator[str]:
    """What came of the run."""
    yield from sampler_remark(paper, evaluated.facts)
    if not evaluated.words:
        yield "no word of the answers names an object of its picture, so nothing could be measured"
