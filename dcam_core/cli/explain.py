"""`dcam explain`: a picture and a prompt in, a folder with heat maps and a report out."""

from __future__ import annotations

from pathlib import Path

import click

from dcam_core.cli.results import result_folder, tell
from dcam_core.cli.session import Session

__all__ = ["explain"]


@click.command(short_help="Explain a model's answer about a picture.")
@click.argument("image")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--prompt", required=True, help="What to ask about the picture.")
@click.option(
    "--model", required=True, metavar="NAME|FOLDER|HUB_ID", help="Embedded model, folder or hub id."
)
@click.option("--adapter", metavar="FAMILY", help="Family of the model.  [default: read from config.json]")
@click.option(
    "-t",
    "--target",
    "targets",
    metavar="WORD",
    multiple=True,
    help="Word or phrase of the answer to explain: circle, circle#2, 'red circle', @5 (a position). May be "
    "repeated.  [default: all words]",
)
@click.option(
    "--method", default="diffusion-cam", show_default=True, metavar="NAME|FILE", help="Preset, or YAML file."
)
@click.option("-o", "--out", metavar="DIR", help="New folder for the result.  [default: dcam-IMAGE]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps.")
@click.option(
    "--dtype", help="float32, float16, bfloat16, float64.  [default: as stored; float32 on the CPU]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampler.")
@click.option("--print-config", is_flag=True, help="Print the merged method configuration and stop.")
@click.pass_obj
def explain(
    session: Session,
    *,
    image: str,
    overrides: tuple[str, ...],
    prompt: str,
    model: str,
    adapter: str | None,
    targets: tuple[str, ...],
    method: str,
    out: str | None,
    device: str,
    dtype: str | None,
    seed: int,
    print_config: bool,
) -> None:
    """Show where in IMAGE each word of the model's answer came from.

    KEY=VALUE changes a setting of the method: mask_step=infill, sampler.steps=16,
    refiners.min-max=null (leaves a refiner out).

    Example: dcam explain scene.png --prompt "describe the picture" --model tiny-llada-v -t circle
    """
    from omegaconf import OmegaConf

    from dcam_core.cli.progress import ProgressBars
    from dcam_core.explainer import Explainer
    from dcam_core.models import load_model
    from dcam_core.picture import read_picture

    # What needs no model is checked first: loading one may take minutes.
    picture = read_picture(image)
    folder = result_folder(out, f"dcam-{Path(image).stem}")
    with ProgressBars() as progress:
        progress("loading", 0, 1)
        loaded = load_model(model, adapter=adapter, device=device, dtype=dtype, manager=session.manager)
        explainer = Explainer(loaded, method, overrides=overrides, manager=session.manager)
        progress("loading", 1, 1)
        if not print_config:
            explanation = explainer.explain(picture, prompt, targets or None, seed=seed, progress=progress)
            explanation.save(folder)
    if print_config:
        settings = {**explainer.method.as_dict(), "probe_layer": explainer.layer}
        click.echo(OmegaConf.to_yaml(OmegaConf.create(settings)), nl=False)
    else:
        tell(explanation, folder)
