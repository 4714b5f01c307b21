"""Evaluate methods on a dataset: what `dcam evaluate` does, for Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dcam_core
from dcam_core.adapter import Adapter
from dcam_core.dataset import ExplanationDataset
from dcam_core.errors import ConfigurationError, DatasetError, PictureError
from dcam_core.evaluation.folder import RunFolder
from dcam_core.evaluation.making import make
from dcam_core.evaluation.measures import Measure, measures
from dcam_core.evaluation.sample import CEILING, SampleEvaluator
from dcam_core.evaluation.summary import Summary, summarise
from dcam_core.evaluation.tables import latex, markdown
from dcam_core.explainer import Explainer, Progress
from dcam_core.matching import NameMatcher
from dcam_core.method import resolve_method
from dcam_core.models import load_model
from dcam_core.plugins import default_manager
from dcam_core.results.record import model_identity

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager

__all__ = ["evaluate"]


def evaluate(
    model: Adapter | str | Path,
    dataset: str,
    methods: Sequence[str | Path],
    out: str | Path,
    *,
    dataset_parameters: Mapping[str, Any] | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    metrics: Sequence[str] | None = None,
    baselines: bool = True,
    seed: int = 0,
    loading: Mapping[str, Any] | None = None,
    manager: PluginManager | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compare methods on the answers of a model to the pictures of a dataset.

    The model answers once per picture, and every method explains the same answer. Maps of the words that name
    something in the picture are scored against its mask. Everything is kept in a folder, sample by sample: the same
    call continues a run that was cut off, and gives the summary of a finished one without loading the model.

    Args:
        model: a loaded model, or what `dcam_core.load_model` takes.
        dataset: name of a dataset.
        methods: names of methods, or paths of YAML files; the others are compared with the first.
        out: the folder; new, empty, or of the same evaluation.
        dataset_parameters: for the dataset, such as `split` and `root`.
        limit: only the first samples; None: all.
        prompt: what is asked about every picture; None: what the dataset asks.
        metrics: "NAME" or "NAME:KEY=VALUE" each, where "half-cell" as a value is half a token's side in pixels. None:
            those that are meant for tables.
        baselines: whether the methods that were registered as baselines, and the objects' masks on the token grid,
            are in the tables too.
        seed: of the sampler and of the bootstrap.
        loading: further keywords for `dcam_core.load_model`.
        manager: the plugins; None: all that are installed.
        progress: called after every sample.

    Returns:
        Means with intervals, and differences; also written as `summary.json` and `summary.md`.

    Raises:
        UnknownNameError: no such dataset, method, metric or model.
        ConfigurationError: a setting is wrong; a method sets the sampler, which all methods share.
        UsageError: the folder holds something else, or another evaluation; it says what differs.
    """
    manager = manager or default_manager()
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit is {limit}: give at least 1 sample")
    columns = measures(manager.registries.metrics, metrics)
    if not columns:
        raise ConfigurationError("there is no metric to measure by: name one with metrics")
    chosen = _chosen_methods(methods, baselines, manager)
    name = model.name if isinstance(model, Adapter) else str(model)
    request = {
        "model": name,
        "loading": dict(loading or {}),
        "dataset": {"name": dataset, **(dataset_parameters or {})},
        "limit": limit,
        "prompt": prompt,
        "methods": chosen,
        "baselines": baselines,
        "metrics": [each.label for each in columns],
        "seed": seed,
        "versions": {
            "dcam": dcam_core.__version__,
            "torch": str(torch.__version__),
            "plugins": manager.versions(),
        },
    }
    entry = manager.registries.datasets.entry(dataset)
    folder = RunFolder(Path(out).expanduser(), request)
    if not folder.finished:
        # What needs no model is made first: loading one may take minutes.
        samples = make(entry, dataset_parameters or {})
        adapter = (
            model if isinstance(model, Adapter) else load_model(model, manager=manager, **(loading or {}))
        )
        evaluator = _evaluator(adapter, samples, methods, chosen, columns, prompt, seed, baselines, manager)
        count = len(samples) if limit is None else min(limit, len(samples))
        folder.settle(_facts(evaluator, samples, count))
        _run(evaluator, samples, count, folder, progress)
    summary = summarise(
        folder.rows,
        folder.samples,
        len(folder.skipped),
        model=name,
        dataset=dataset,
        methods=[*chosen, *([CEILING] if baselines else [])],
        metrics={each.label: each.higher_is_better for each in columns},
        seed=seed,
    )
    folder.write("summary.json", json.dumps(summary.as_dict(), indent=2, ensure_ascii=False))
    folder.write("summary.md", markdown(summary))
    folder.write("summary.tex", latex(summary))
    return summary


def _run(
    evaluator: SampleEvaluator,
    samples: ExplanationDataset,
    count: int,
    folder: RunFolder,
    progress: Progress | None,
) -> None:
    """Evaluate the samples that are not done."""
    done = folder.done
    for index in range(count):
        if index not in done:
            try:
                sample = samples[index]
                inputs = evaluator.prepare(sample)
            except (PictureError, DatasetError, OSError) as error:
                folder.skip(index, " ".join(str(error).split()))
            else:
                folder.add(index, evaluator.evaluate(sample, inputs))
        if progress is not None:
            progress("evaluating", index + 1, count)


def _chosen_methods(
    methods: Sequence[str | Path], baselines: bool, manager: PluginManager
) -> dict[str, dict[str, Any]]:
    """Label -> settings of the methods, baselines last; what a checkpoint adds to them is not known yet."""
    registry = manager.registries.methods
    asked = [str(method) for method in methods]
    if not asked:
        raise ConfigurationError("no method is named: give at least one")
    if baselines:
        asked += [
            entry.name
            for entry in registry
            if entry.metadata.get("baseline")
            and entry.name not in {registry.entry(name).name for name in asked if name in registry}
        ]
    chosen: dict[str, dict[str, Any]] = {}
    for text in asked:
        is_file = text.endswith((".yaml", ".yml"))
        path = Path(text) if is_file else Path(registry.get(text))
        label = path.stem if is_file else registry.entry(text).name
        if label in chosen or label == CEILING:
            raise ConfigurationError(
                f"two methods are called {label!r}: every row of the table needs a name of its own"
            )
        settings = resolve_method(label, path).as_dict()
        if settings["sampler"]:
            raise ConfigurationError(
                f"method {label!r} sets the sampler ({', '.join(settings['sampler'])}): all methods explain the same "
                "answer; take its sampler settings out"
            )
        chosen[label] = settings
    return chosen


def _evaluator(
    adapter: Adapter,
    samples: ExplanationDataset,
    methods: Sequence[str | Path],
    chosen: Mapping[str, Any],
    columns: Sequence[Measure],
    prompt: str | None,
    seed: int,
    baselines: bool,
    manager: PluginManager,
) -> SampleEvaluator:
    """Everything that is the same for all samples."""
    sources = [*methods, *list(chosen)[len(methods) :]]
    return SampleEvaluator(
        adapter,
        {
            label: Explainer(adapter, source, manager=manager)
            for label, source in zip(chosen, sources, strict=True)
        },
        columns,
        NameMatcher(samples.categories),
        adapter.default_sampler.merged({"seed": seed}),
        prompt,
        baselines,
    )


def _facts(evaluator: SampleEvaluator, samples: ExplanationDataset, count: int) -> dict[str, Any]:
    """What the request comes to."""
    return {
        "samples": count,
        "model": model_identity(evaluator.model),
        "methods": {
            label: {**explainer.method.as_dict(), "probe_layer": explainer.layer}
            for label, explainer in evaluator.explainers.items()
        },
        "sampler": evaluator.settings.as_dict(),
        "matching": list(evaluator.matcher.rules) if isinstance(evaluator.matcher, NameMatcher) else None,
        "left_out_of_the_dataset": len(samples.left_out),
    }
