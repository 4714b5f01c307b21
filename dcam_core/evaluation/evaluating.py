"""Evaluate methods on a dataset: what `dcam evaluate` does, for Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dcam_core
from dcam_core.adapter import Adapter
from dcam_core.dataset import ExplanationDataset
from dcam_core.distributed import Processes
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation.folder import RunFolder
from dcam_core.evaluation.making import make_dataset
from dcam_core.evaluation.measures import columns as chosen_columns
from dcam_core.evaluation.methods import (
    Variant,
    baseline_methods,
    expand,
    named_methods,
    rows_of_a_table,
)
from dcam_core.evaluation.model_source import ModelSource
from dcam_core.evaluation.page import render_page
from dcam_core.evaluation.plots import rendered, study_figures
from dcam_core.evaluation.sample import CEILING, SampleEvaluator
from dcam_core.evaluation.summary import Summary, summarise
from dcam_core.evaluation.tables import latex, markdown
from dcam_core.evaluation.work import EvaluationWork, SharedEvaluation
from dcam_core.matching import NameMatcher
from dcam_core.plugins import default_manager
from dcam_core.progress import Progress
from dcam_core.results.record import model_identity

if TYPE_CHECKING:
    from dcam_core.evaluation.studies import Study
    from dcam_core.plugins import PluginManager

__all__ = ["evaluate"]


def evaluate(
    model: Adapter | str | Path | ModelSource,
    dataset: str,
    methods: Sequence[str | Path | Variant],
    out: str | Path,
    *,
    studies: Sequence[Study] = (),
    dataset_parameters: Mapping[str, Any] | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    captions: bool = False,
    every_grounded_word: bool = False,
    metrics: Sequence[str] | None = None,
    reliance: bool = False,
    baselines: bool = True,
    pictures: bool = True,
    sampler: Mapping[str, Any] | None = None,
    seed: int = 0,
    loading: Mapping[str, Any] | None = None,
    devices: int | str | None = None,
    nodes: int = 1,
    strategy: str | None = None,
    replaying: Mapping[str, Any] | None = None,
    manager: PluginManager | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compare methods on the answers of a model to the pictures of a dataset.

    The model answers once per picture, and every method explains the same answer. Maps of the words that name
    something in the picture are scored against its mask. Everything is kept in a folder, sample by sample: the same
    call continues a run that was cut off, and gives the summary of a finished one without loading the model.

    Args:
        model: a loaded model, what `dcam_core.load_model` takes, or a `ModelSource`, which evaluations can share.
        dataset: name of a dataset.
        methods: names of methods, paths of YAML files, or variants of either; the others are compared with the first.
        out: the folder; new, empty, or of the same evaluation.
        studies: what becomes of each method with other settings: `Ablation`, `Sweep`, `Layers`. Their variants are
            rows of the tables, and every study is drawn (`*.svg`, `*.png`).
        dataset_parameters: for the dataset, such as `split` and `root`.
        limit: only the first samples; None: all.
        prompt: what is asked about every picture; None: what the dataset asks.
        captions: whether the dataset's captions are explained, in place of what the model answers.
        every_grounded_word: whether words that no mask is known of are evaluated too, if they depend on the picture;
            metrics that compare with masks have no score for them.
        metrics: "NAME" or "NAME:KEY=VALUE" each, where "half-cell" as a value is half a token's side in pixels;
            "localisation" stands for those that are meant for tables, "faithfulness" for the `FAITHFULNESS` that the
            model is asked for. None: "localisation".
        reliance: whether the visual reliance of all words of the answers is measured, and how well it tells words
            that are seen from words that are not.
        baselines: whether the methods that were registered as baselines, and the objects' masks on the token grid,
            are in the tables too.
        pictures: whether small pictures of the maps are kept, for `table.html`; the numbers do not depend on it.
        sampler: settings of the denoising run that differ from the model's own.
        seed: of the sampler and of the bootstrap.
        loading: further keywords for `dcam_core.load_model`.
        devices: number of devices per node, of the kind that `loading` names as `device`, or "auto" for all; None:
            this process evaluates all samples, unless nodes or a strategy are given.
        nodes: number of nodes.
        strategy: "ddp", or "ddp_notebook" in a notebook; None: "ddp".
        replaying: keywords for `Explainer` that bound memory: `states_per_forward`, `targets_per_backward`,
            `checkpointing`, `offload`. Scores are the same up to rounding, so the folder does not hold to them.
        manager: the plugins; None: all that are installed.
        progress: called after every sample; with several processes in the first of them, for its share.

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
    columns = chosen_columns(manager.registries.metrics, metrics)
    if not columns:
        raise ConfigurationError("there is no metric to measure by: name one with metrics")
    named = named_methods(methods, manager)
    further = baseline_methods(named, manager) if baselines else []
    # The variants as a model of one block would have them: a setting that is wrong is found before a model is loaded.
    for variant in (*expand(named, studies, 1, manager).variants, *further):
        variant.check(manager)
    source = model if isinstance(model, ModelSource) else ModelSource(model, loading or {}, manager)
    processes = Processes.asked(source.loading, devices, nodes, strategy)
    name = source.name
    request = {
        "model": name,
        "loading": dict(source.loading),
        "dataset": {"name": dataset, **(dataset_parameters or {})},
        "limit": limit,
        "prompt": prompt,
        "captions": captions,
        "every_grounded_word": every_grounded_word,
        "reliance": reliance,
        "sampler": dict(sampler or {}),
        "methods": {each.label: each.method(manager).as_dict() for each in (*named, *further)},
        "studies": [study.asked for study in studies],
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

    def begin(source: ModelSource) -> EvaluationWork:
        # What needs no model is made first: loading one may take minutes.
        samples = make_dataset(entry, dataset_parameters or {})
        adapter = source.adapter
        expanded = expand(named, studies, len(adapter.blocks), manager, adapter.folder)
        evaluator = SampleEvaluator(
            adapter,
            {
                each.label: each.explainer(adapter, manager, **(replaying or {}))
                for each in (*expanded.variants, *further)
            },
            columns,
            NameMatcher(samples.categories),
            adapter.default_sampler.merged({**(sampler or {}), "seed": seed}),
            prompt=prompt,
            ceiling=baselines,
            captions=captions,
            every_grounded_word=every_grounded_word,
            reliance=reliance,
            keep_pictures=pictures,
        )
        count = len(samples) if limit is None else min(limit, len(samples))
        facts = {**_facts(evaluator, samples, count), "studies": expanded.studied}
        return EvaluationWork(evaluator, samples, count, facts)

    if not folder.finished:
        try:
            if processes is None:
                begin(source).do_all(folder, progress)
            else:
                processes.share(SharedEvaluation(source, begin, folder), progress)
        finally:
            folder.close()
        folder = RunFolder(folder.path, request)  # what all processes have made of it
    studied = (folder.facts or {})["studies"]
    rows, done, skipped = folder.rows, folder.samples, folder.skipped

    def summarised(labels: Sequence[str]) -> Summary:
        return summarise(
            [row for row in rows if row["method"] in labels],
            done,
            len(skipped),
            model=name,
            dataset=dataset,
            methods=labels,
            metrics={each.label: each.higher_is_better for each in columns},
            first_skipped=skipped[0]["why"] if skipped else None,
            left_out=(folder.facts or {})["left_out_of_the_dataset"],
            seed=seed,
        )

    summary = summarised([*rows_of_a_table(named, studied, further), *([CEILING] if baselines else [])])
    if processes is not None and not processes.is_first():
        return summary
    folder.write("summary.json", json.dumps(summary.as_dict(), indent=2, ensure_ascii=False))
    page = [markdown(summary)]
    if summary.words:
        for stem, figure in study_figures(studies, studied, summarised):
            for form in ("svg", "png"):
                folder.write(f"{stem}.{form}", rendered(figure, form))
            page.append(f"\n![{stem}]({stem}.svg)")
    folder.write("summary.md", "\n".join(page))
    folder.write("summary.tex", latex(summary))
    folder.write("table.html", render_page(summary, folder, request))
    return summary


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
        "samples_in_the_dataset": len(samples),
        "left_out_of_the_dataset": Counter(each.why for each in samples.left_out),
    }
