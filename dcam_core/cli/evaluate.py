"""`dcam evaluate`: compare methods on a model and a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.measuring import continuable, listed, print_tables, sampler_option
from dcam_core.cli.process_options import process_options, speaks
from dcam_core.cli.replaying_options import replaying_options
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError

__all__ = ["evaluate"]


@click.command(short_help="Compare methods: where their maps lie, over a dataset.")
@click.option(
    "--model", required=True, metavar="NAME|FOLDER|HUB_ID", help="Embedded model, folder or hub id."
)
@loading_options
@click.option(
    "--dataset",
    required=True,
    metavar="NAME[:ROOT]",
    help="A dataset, and the folder that it is read from: scenes, coco-caption:~/data/coco.",
)
@click.option("--split", help="Part of the dataset.  [default: the dataset's own]")
@click.option(
    "--dataset-option",
    "dataset_options",
    metavar="KEY=VALUE",
    multiple=True,
    help="A parameter of the dataset. May be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N samples.")
@click.option(
    "--methods",
    required=True,
    metavar="A,B,C",
    help="Presets, or YAML files; the others are compared with the first. 'all' stands for all presets that are not "
    "named.",
)
@click.option(
    "--ablate",
    metavar="PLAN",
    multiple=True,
    help="Leave refiners of the methods out: 'refiners' (each, and all), 'refiners:alone' (all but one), "
    "'refiners:cumulative' (one after the other comes in). May be repeated.",
)
@click.option(
    "--sweep",
    metavar="KEY=V1,V2,...",
    multiple=True,
    help="Vary a setting of the methods: mask_step=infill,commit, refiners.NAME.PARAMETER=1,2,4. May be repeated: "
    "each varies by itself.",
)
@click.option(
    "--layers",
    metavar="all|A,B,C",
    multiple=True,
    help="Probe the output of every block ('all'), or what a part of every block reads ('attention-norm', "
    "'feed-forward-norm'), or these: 0,1,-1,0.5,attention-norm:2. May be repeated.",
)
@click.option(
    "--metrics",
    metavar="A,B,C",
    help="Metrics, with parameters as NAME:KEY=VALUE; half-cell as a value is half a token's side in pixels: "
    "miou,pointing-game:tolerance=half-cell. 'localisation' stands for those meant for tables, 'faithfulness' for "
    "those that ask the model itself, which takes much longer.  [default: localisation]",
)
@click.option(
    "--captions",
    is_flag=True,
    help="Explain what the dataset says of the pictures, in place of what the model says.",
)
@click.option(
    "--every-grounded-word",
    is_flag=True,
    help="Also evaluate words that no mask is known of, if they depend on the picture: for metrics that ask the "
    "model.",
)
@click.option(
    "--reliance", is_flag=True, help="Also measure how much every word depends on the picture at all."
)
@click.option("--prompt", metavar="TEXT", help="What is asked.  [default: what the dataset asks]")
@click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="Whether maps that know nothing, and the masks on the token grid, stand in the table.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Whether small pictures of all maps are kept, which table.html shows behind the numbers.",
)
@sampler_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampler.")
@process_options
@replaying_options
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results.")
@click.pass_obj
def evaluate(
    session: Session,
    *,
    model: str,
    loading: dict[str, Any],
    dataset: str,
    split: str | None,
    dataset_options: tuple[str, ...],
    limit: int | None,
    methods: str,
    ablate: tuple[str, ...],
    sweep: tuple[str, ...],
    layers: tuple[str, ...],
    metrics: str | None,
    captions: bool,
    every_grounded_word: bool,
    reliance: bool,
    prompt: str | None,
    baselines: bool,
    pictures: bool,
    sampler_settings: tuple[str, ...],
    seed: int,
    processes: dict[str, Any],
    replaying: dict[str, Any],
    out: str,
) -> None:
    """Compare methods by where their maps lie, on the answers of a model to the pictures of a dataset.

    The model answers once per picture and every method explains this answer. Results are kept sample by sample: the
    same call continues what was interrupted, and shows the table of what is finished.

    Example: dcam evaluate --model tiny-llada-v --dataset scenes --limit 40 --methods dcam,grad-cam --out compared
    """
    from dcam_core.cli.progress import ProgressBars
    from dcam_core.evaluation import Ablation, Layers, Sweep, terminal
    from dcam_core.evaluation import evaluate as run
    from dcam_core.evaluation.making import read_parameters

    name, _, root = dataset.partition(":")
    parameters = read_parameters(dataset_options)
    for key, value in (("root", root), ("split", split)):
        if value:
            if key in parameters:
                raise UsageError(f"{key} of dataset {name!r} is given twice: leave one of the two out")
            parameters[key] = value
    studies = [*map(Ablation, ablate), *map(Sweep.read, sweep), *map(Layers.read, layers)]
    with continuable(out), ProgressBars() as progress:
        summary = run(
            model,
            name,
            listed(methods),
            out,
            studies=studies,
            dataset_parameters=parameters,
            limit=limit,
            prompt=prompt,
            captions=captions,
            every_grounded_word=every_grounded_word,
            reliance=reliance,
            metrics=None if metrics is None else listed(metrics),
            baselines=baselines,
            pictures=pictures,
            sampler=read_parameters(sampler_settings),
            seed=seed,
            loading={key: value for key, value in loading.items() if value is not None},
            **processes,
            replaying=replaying,
            manager=session.manager,
            progress=progress,
        )
    if not speaks(processes):
        return
    print_tables(terminal(summary))
    click.echo(f"tables and results: {Path(out).expanduser()}", err=True)
