"""`dcam demo`: the embedded model explains a picture that is shipped with it."""

from __future__ import annotations

import click

from dcam_core.cli.results import result_folder, tell
from dcam_core.cli.session import Session
from dcam_core.errors import DcamError

__all__ = ["demo"]


@click.command(short_help="Explain a shipped picture, offline.")
@click.option("-o", "--out", metavar="DIR", help="New folder for the result.  [default: dcam-demo]")
@click.pass_obj
def demo(session: Session, *, out: str | None) -> None:
    """Explain a shipped picture with an embedded model; nothing is downloaded."""
    from dcam_core.cli.progress import ProgressBars
    from dcam_core.explainer import Explainer

    folder = result_folder(out, "dcam-demo")
    entry = next(
        (entry for entry in session.manager.registries.models if "demo_picture" in entry.metadata), None
    )
    if entry is None:
        raise DcamError(
            "no plugin offers a model with a demo picture: `dcam plugins` lists what is installed"
        )
    with ProgressBars() as progress:
        progress("loading", 0, 1)
        explainer = Explainer(entry.name, manager=session.manager)
        progress("loading", 1, 1)
        explanation = explainer.explain(
            entry.metadata["demo_picture"], entry.metadata["demo_prompt"], progress=progress
        )
        explanation.save(folder)
    tell(explanation, folder)
