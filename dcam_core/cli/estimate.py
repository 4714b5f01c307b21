"""`dcam estimate`: how much memory will an explanation take?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.replaying_options import replaying_options
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError
from dcam_core.method import DEFAULT_METHOD

__all__ = ["estimate"]


@click.command(short_help="Say how much memory an explanation will take.")
@click.argument("model", metavar="NAME|FOLDER|HUB_ID")
@loading_options
@click.option(
    "--image", "size", metavar="WxH", default="640x480", show_default=True, help="Size of the picture."
)
@click.option("--targets", metavar="N", default=1, show_default=True, help="How many words are explained.")
@click.option(
    "--method", default=DEFAULT_METHOD, show_default=True, metavar="NAME|FILE", help="Preset, or YAML file."
)
@click.option(
    "-s",
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting laid over the method, as sampler.answer_length=64. May be repeated.",
)
@click.option("--prompt", metavar="TEXT", default="describe the picture", show_default=True)
@replaying_options
@click.option("--json", "out", metavar="FILE", help="Write the estimate as JSON too, in bytes.")
@click.pass_obj
def estimate(
    session: Session,
    *,
    model: str,
    loading: dict[str, Any],
    size: str,
    targets: int,
    method: str,
    settings: tuple[str, ...],
    prompt: str,
    replaying: dict[str, Any],
    out: str | None,
) -> None:
    """Say how much memory an explanation will take.

    The run is done on tensors without numbers: nothing is computed, and weights are not read where the family can
    do without. Counted is what tensors take; what the allocator loses between them, what kernels take for
    themselves, and what a CUDA process takes before the first tensor come on top.

    Example: dcam estimate tiny-llada-v --image 640x480 --targets 4
    """
    from dcam_core.estimating.estimating import estimate_memory

    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise UsageError(f"--json {out} cannot be written: give a file in a folder that exists")
    found = estimate_memory(
        model,
        _size(size),
        targets,
        method=method,
        prompt=prompt,
        loading=loading,
        manager=session.manager,
        overrides=settings,
        **replaying,
    )
    click.echo(str(found))
    if out is not None:
        Path(out).write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")


def _size(text: str) -> tuple[int, int]:
    """Width and height out of "640x480"."""
    if not (match := re.fullmatch(r"(\d+)\s*[xX]\s*(\d+)", text.strip())):
        raise click.BadParameter(f"{text!r} is no size: write 640x480", param_hint="--image")
    return int(match[1]), int(match[2])
