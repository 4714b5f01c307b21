"""`dcam reproduce`: a paper's tables beside what is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.measuring import continuable, listed, print_tables, sampler_option
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError

__all__ = ["reproduce"]


@click.command(short_help="Measure a paper's tables anew, and print them beside the published ones.")
@click.argument("paper", default="diffusion-cam")
@click.option("--model", metavar="NAME|FOLDER|HUB_ID", help="Embedded model, folder or hub id.")
@loading_options
@click.option(
    "--dataset",
    "datasets",
    metavar="NAME:FOLDER",
    multiple=True,
    help="Data of the paper, and where they lie: coco-caption:~/data/coco. May be repeated.",
)
@click.option(
    "--dataset-option",
    "dataset_options",
    metavar="NAME.KEY=VALUE",
    multiple=True,
    help="A parameter of a dataset: coco-caption.split=val2017. May be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N pictures of each.")
@click.option(
    "--also",
    metavar="A,B,C",
    default="dcam",
    show_default=True,
    help="Further methods, below the paper's rows; presets or YAML files.",
)
@sampler_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampler.")
@click.option("-o", "--out", metavar="DIR", help="Folder for the results.")
@click.pass_obj
def reproduce(
    session: Session,
    *,
    paper: str,
    model: str | None,
    loading: dict[str, Any],
    datasets: tuple[str, ...],
    dataset_options: tuple[str, ...],
    limit: int | None,
    also: str,
    sampler_settings: tuple[str, ...],
    seed: int,
    out: str | None,
) -> None:
    """Print the tables of PAPER, and what is found with a model and data of yours beside them.

    Without a model and data, the published figures alone, and what is needed to measure them. What can be measured
    is; of everything else the tables say why not. Results are kept picture by picture: the same call continues what
    was interrupted, and shows what is finished.

    Example: dcam reproduce --model ~/models/lavida --dataset coco-caption:~/data/coco --limit 100 --out reproduced
    """
    from dcam_core.cli.progress import ProgressBars
    from dcam_core.evaluation.making import read_parameters
    from dcam_core.published import published, read_paper, terminal
    from dcam_core.published import reproduce as run

    tables = read_paper(session.manager.registries.papers.get(paper))
    data = _data(datasets, dataset_options)
    if model is None and not data and out is None:
        found = published(tables)
    elif model is None or not data or out is None:
        missing = {"--model": model, "--dataset": data, "--out": out}
        raise UsageError(
            f"to measure takes --model, --dataset and --out: {', '.join(key for key in missing if not missing[key])} "
            "is missing; without any of the three, the published figures are shown"
        )
    else:
        with continuable(out), ProgressBars() as progress:
            found = run(
                tables,
                model,
                data,
                out,
                also=listed(also),
                limit=limit,
                sampler=read_parameters(sampler_settings),
                seed=seed,
                loading={key: value for key, value in loading.items() if value is not None},
                manager=session.manager,
                progress=progress,
            )
    print_tables(terminal(found))
    if out is not None:
        click.echo(f"tables and results: {Path(out).expanduser()}", err=True)


def _data(datasets: tuple[str, ...], options: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Name of a dataset -> its parameters."""
    from dcam_core.evaluation.making import read_parameters

    data: dict[str, dict[str, Any]] = {}
    for text in datasets:
        name, _, root = text.partition(":")
        if not name or not root:
            raise UsageError(f"--dataset {text!r} is not NAME:FOLDER")
        if name in data:
            raise UsageError(f"dataset {name!r} is given twice: leave one of the two out")
        data[name] = {"root": root}
    for option in options:
        name, dot, setting = option.partition(".")
        if not dot or name not in data:
            raise UsageError(
                f"--dataset-option {option!r} is not NAME.KEY=VALUE with a dataset that is given: "
                f"{', '.join(data) or 'there is none'}"
            )
        data[name] |= read_parameters([setting])
    return data
