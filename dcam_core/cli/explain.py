"""`dcam explain`: a picture and a prompt in, a folder with heat maps and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.measuring import continuable
from dcam_core.cli.process_options import asked_for, process_options, speaks
from dcam_core.cli.replaying_options import replaying_options
from dcam_core.cli.results import result_folder, tell
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError
from dcam_core.method import DEFAULT_METHOD

__all__ = ["explain"]


@click.command(short_help="Explain a model's answer about a picture.")
@click.argument("image")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--prompt", required=True, help="What to ask about the picture.")
@click.option(
    "--with-picture",
    "further",
    metavar="IMAGE",
    multiple=True,
    help="A further picture in the same prompt, after IMAGE: every word gets a map over each. May be repeated.",
)
@click.option(
    "--model", required=True, metavar="NAME|FOLDER|HUB_ID", help="Embedded model, folder or hub id."
)
@loading_options
@click.option(
    "-t",
    "--target",
    "targets",
    metavar="WORD",
    multiple=True,
    help="Word or phrase of the answer to explain: circle, circle#2, 'red circle', @5 (a position). May be "
    "repeated; 'all' is every word.  [default: words that depend on the picture]",
)
@click.option(
    "--answer",
    metavar="TEXT",
    help="Explain this text as the answer, in place of the one that the model gives.",
)
@click.option(
    "--why-not",
    metavar="WORD",
    help="Put WORD in the place of the target: what in the picture would have spoken for it there.",
)
@click.option(
    "--rather-than",
    metavar="WORD",
    help="What spoke for the target more than for WORD (gradient_target contrast).",
)
@click.option(
    "--baseline",
    "baselines",
    metavar="NAME|IMAGE|FOLDER",
    multiple=True,
    help="What stands in the picture's place to measure how much each word depends on it: mean-colour, blur, "
    "another picture, or a folder of pictures. May be repeated; 'none': it is not measured.  [default: pictures that "
    "the model brings, else mean-colour and blur]",
)
@click.option(
    "--grounded-above",
    type=float,
    metavar="NATS",
    help="Visual reliance from which a word is called grounded in the picture.  [default: 0.7]",
)
@click.option(
    "--method", default=DEFAULT_METHOD, show_default=True, metavar="NAME|FILE", help="Preset, or YAML file."
)
@click.option("-o", "--out", metavar="DIR", help="New folder for the result.  [default: dcam-IMAGE]")
@click.option(
    "--animate",
    is_flag=True,
    help="Also explain the words over the denoising: a GIF for each word, and a player in the report.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    help="With --animate: at most so many steps, evenly spread; those that decided the words are always shown.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampler.")
@process_options
@replaying_options
@click.option("--print-config", is_flag=True, help="Print the merged method configuration and stop.")
@click.pass_obj
def explain(
    session: Session,
    *,
    image: str,
    overrides: tuple[str, ...],
    prompt: str,
    further: tuple[str, ...],
    model: str,
    targets: tuple[str, ...],
    answer: str | None,
    why_not: str | None,
    rather_than: str | None,
    baselines: tuple[str, ...],
    grounded_above: float | None,
    method: str,
    out: str | None,
    animate: bool,
    frames: int,
    seed: int,
    print_config: bool,
    loading: dict[str, Any],
    processes: dict[str, Any],
    replaying: dict[str, Any],
) -> None:
    """Show where in IMAGE each word of the model's answer came from.

    Words that do not depend on the picture get a number, and no map unless they are asked for.

    KEY=VALUE changes a setting of the method: mask_step=infill, sampler.steps=16,
    refiners.min-max=null (leaves a refiner out).

    If IMAGE is a folder, every picture in it is explained, each into a folder of its own name in DIR; the same
    call continues what was interrupted.

    Example: dcam explain scene.png --prompt "describe the picture" --model tiny-llada-v -t circle
    """
    from omegaconf import OmegaConf

    from dcam_core.cli.progress import ProgressBars
    from dcam_core.explainer import Explainer
    from dcam_core.models import load_model
    from dcam_core.picture import read_pictures
    from dcam_core.probing.baseline_pictures import stand_ins
    from dcam_core.probing.reliance import GROUNDED_ABOVE

    # What needs no model is checked first: loading one may take minutes.
    of_a_folder = Path(image).expanduser().is_dir() and not further and not print_config
    if asked_for(processes) and not of_a_folder:
        raise UsageError(
            "--devices, --nodes and --strategy share the pictures of a folder: give a folder as IMAGE"
        )
    pictures = () if of_a_folder else read_pictures((image, *further))
    _refuse_stray_pictures(overrides)
    chosen: tuple[str, ...] | None = () if baselines == ("none",) else baselines or None
    stand_ins((), chosen or ())  # names and files; the pictures are made where they are used
    if why_not is not None and len(targets) != 1:
        raise UsageError(
            f"--why-not {why_not} takes the place of one word: name it with -t, such as -t circle"
        )
    if animate and (answer is not None or why_not is not None):
        option = "--answer" if answer is not None else "--why-not"
        raise UsageError(f"{option} gives the answer, so no denoising step wrote it: leave out --animate")
    contrast = None if rather_than is None else {"name": "contrast", "against": rather_than}
    explaining: dict[str, Any] = {
        "targets": "all" if targets == ("all",) else targets or None,
        "answer": answer,
        "why_not": why_not,
        "baselines": chosen,
        "grounded_above": GROUNDED_ABOVE if grounded_above is None else grounded_above,
        "over_time": frames if animate else False,
        "seed": seed,
    }
    if of_a_folder:
        _explain_folder(
            session,
            image,
            out,
            processes,
            model=model,
            prompt=prompt,
            method=method,
            overrides=overrides,
            gradient_target=contrast,
            explaining=explaining,
            replaying=replaying,
            loading={key: value for key, value in loading.items() if value is not None},
        )
        return
    folder = result_folder(out, f"dcam-{Path(image).stem}")
    with ProgressBars() as progress:
        progress("loading", 0, 1)
        loaded = load_model(model, manager=session.manager, **loading)
        explainer = Explainer(
            loaded,
            method,
            overrides=overrides,
            gradient_target=contrast,
            manager=session.manager,
            **replaying,
        )
        progress("loading", 1, 1)
        if not print_config:
            explanation = explainer.explain(pictures, prompt, progress=progress, **explaining)
            explanation.save(folder)
    if print_config:
        settings = {**explainer.method.as_dict(), "probe_layer": explainer.layer}
        click.echo(OmegaConf.to_yaml(OmegaConf.create(settings)), nl=False)
    else:
        tell(explanation, folder)


def _explain_folder(
    session: Session, folder: str, out: str | None, processes: dict[str, Any], **asked: Any
) -> None:
    """Explain every picture of a folder; the first of several processes says what came of it."""
    from dcam_core.cli.progress import ProgressBars
    from dcam_core.picture_folder import explain_folder

    into = Path(out or f"dcam-{Path(folder).expanduser().resolve().name}").expanduser()
    with continuable(into), ProgressBars() as progress:
        outcome = explain_folder(
            folder=folder, out=into, manager=session.manager, progress=progress, **asked, **processes
        )
    if not speaks(processes):
        return
    for name, why in outcome.skipped.items():
        click.echo(f"{name} is not explained: {why}", err=True)
    for explained in outcome.explained.values():
        click.echo(str(explained / "report.html"))
    click.echo(str(into / "index.html"))
    if not outcome.explained:
        raise UsageError(
            f"none of the {len(outcome.skipped)} pictures in {folder} could be explained: see above"
        )


def _refuse_stray_pictures(overrides: Sequence[str]) -> None:
    """Refuse a file among the settings before the model is loaded: it may be meant as a second picture."""
    for override in overrides:
        if "=" not in override and Path(override).expanduser().is_file():
            raise UsageError(
                f"{override!r} stands where settings are given: write --with-picture {override} for a second "
                "picture in the same prompt, or call dcam explain again for an explanation of its own"
            )
