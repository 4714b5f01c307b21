"""`dcam evaluate`: compare methods on a model and a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError

__all__ = ["evaluate"]

_WIDTH_OF_A_FILE = 160


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
    help="Presets, or YAML files; the others are compared with the first.",
)
@click.option(
    "--metrics",
    metavar="A,B,C",
    help="Metrics, with parameters as NAME:KEY=VALUE; half-cell as a value is half a token's side in pixels: "
    "miou,pointing-game:tolerance=half-cell.  [default: those meant for tables]",
)
@click.option("--prompt", metavar="TEXT", help="What is asked.  [default: what the dataset asks]")
@click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="Whether maps that know nothing, and the masks on the token grid, stand in the table.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampler.")
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
    metrics: str | None,
    prompt: str | None,
    baselines: bool,
    seed: int,
    out: str,
) -> None:
    """Compare methods by where their maps lie, on the answers of a model to the pictures of a dataset.

    The model answers once per picture and every method explains this answer. Results are kept sample by sample: the
    same call continues what was interrupted, and shows the table of what is finished.

    Example: dcam evaluate --model tiny-llada-v --dataset scenes --limit 40 --methods dcam,grad-cam --out compared
    """
    from rich.console import Console

    from dcam_core.cli.progress import ProgressBars
    from dcam_core.evaluation import evaluate as run
    from dcam_core.evaluation import terminal
    from dcam_core.evaluation.making import read_parameters

    name, _, root = dataset.partition(":")
    parameters = read_parameters(dataset_options)
    for key, value in (("root", root), ("split", split)):
        if value:
            if key in parameters:
                raise UsageError(f"{key} of dataset {name!r} is given twice: leave one of the two out")
            parameters[key] = value
    try:
        with ProgressBars() as progress:
            summary = run(
                model,
                name,
                _listed(methods),
                out,
                dataset_parameters=parameters,
                limit=limit,
                prompt=prompt,
                metrics=None if metrics is None else _listed(metrics),
                baselines=baselines,
                seed=seed,
                loading={key: value for key, value in loading.items() if value is not None},
                manager=session.manager,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(f"what is done is kept in {out}: the same call continues", err=True)
        raise
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    for part in terminal(summary):
        console.print(part)
    click.echo(f"tables and results: {Path(out).expanduser()}", err=True)


def _listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
