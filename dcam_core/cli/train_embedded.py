"""`dcam train-embedded`: retrain the model that is shipped for a family."""

from __future__ import annotations

from pathlib import Path

import click

from dcam_core.cli.session import Session
from dcam_core.errors import UnknownNameError
from dcam_core.registry import import_object, normalise

__all__ = ["train_embedded"]


@click.command()
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

    Training that was interrupted goes on from the checkpoints in DIR.
    """
    registries = session.manager.registries
    recipes = {
        normalise(entry.metadata["adapter"]): entry
        for entry in registries.models
        if "recipe" in entry.metadata
    }
    if normalise(family) not in recipes:
        raise UnknownNameError("family with a recipe", family, recipes)
    facts = recipes[normalise(family)].metadata
    recipe = import_object(facts["recipe"])
    recipe(out=Path(out).expanduser(), dataset=registries.datasets.get(facts["dataset"]), seed=seed)
    click.echo(str(Path(out).expanduser()))
