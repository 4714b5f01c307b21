"""`dcam train-embedded`: retrain the model that is shipped for a family."""

from __future__ import annotations

from pathlib import Path

import click

from dcam_core.cli.session import Session
from dcam_core.errors import UnknownNameError
from dcam_core.plugins.registry import Entry, normalise

__all__ = ["train_embedded"]


@click.command(short_help="Retrain a shipped model.")
@click.argument("family")
@click.option(
    "-o", "--out", metavar="DIR", required=True, help="Folder for checkpoints and the trained model."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training."
)
@click.pass_obj
def train_embedded(session: Session, *, family: str, out: str, seed: int) -> None:
    """Train the embedded model of FAMILY from scratch.

    Training that was interrupted goes on from the checkpoints in DIR. Losses, accuracy and maps of what
    the words look at are logged there too: CSV files and pictures, and TensorBoard where it is installed.
    """
    registries = session.manager.registries
    models = {
        normalise(entry.metadata["adapter"]): entry
        for entry in registries.models
        if entry.metadata.keys() >= {"adapter", "recipe", "dataset"}
    }
    if normalise(family) not in models:
        raise UnknownNameError("family with a training recipe", family, models)
    model = models[normalise(family)]
    recipe = Entry("recipe", model.name, model.metadata["recipe"], model.plugin, model.distribution).load()
    recipe(out=Path(out).expanduser(), dataset=registries.datasets.get(model.metadata["dataset"]), seed=seed)
    click.echo(str(Path(out).expanduser()))
