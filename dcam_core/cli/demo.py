"""`dcam demo`: the embedded model explains a picture that is shipped with it."""

from __future__ import annotations

import click

from dcam_core.cli.results import result_folder, tell
from dcam_core.cli.session import Session
from dcam_core.errors import DcamError, UnknownNameError

__all__ = ["demo"]


@click.command(short_help="Explain a shipped picture, offline.")
@click.option("--model", metavar="NAME", help="Which embedded model.  [default: the one made for it]")
@click.option("-o", "--out", metavar="DIR", help="New folder for the result.  [default: dcam-demo]")
@click.pass_obj
def demo(session: Session, *, model: str | None, out: str | None) -> None:
    """Explain a shipped picture with an embedded model; nothing is downloaded."""
    from dcam_core.cli.progress import ProgressBars
    from dcam_core.explainer import Explainer

    folder = result_folder(out, "dcam-demo")
    offered = {
        entry.name: entry for entry in session.manager.registries.models if "demo_picture" in entry.metadata
    }
    if not offered:
        raise DcamError(
            "no plugin offers a model with a demo picture: `dcam plugins` lists what is installed"
        )
    if model is not None and model not in offered:
        raise UnknownNameError("model with a demo picture", model, offered)
    default = next(
        (name for name, entry in offered.items() if entry.metadata.get("demo")), next(iter(offered))
    )
    entry = offered[model or default]
    with ProgressBars() as progress:
        progress("loading", 0, 1)
        explainer = Explainer(entry.name, manager=session.manager)
        progress("loading", 1, 1)
        explanation = explainer.explain(
            entry.metadata["demo_picture"], entry.metadata["demo_prompt"], progress=progress
        )
        explanation.save(folder)
    tell(explanation, folder)
