"""`dcam check`: does an adapter keep its promises with this model?"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dcam_core
from dcam_core.cli.loading_options import loading_options
from dcam_core.cli.session import Session
from dcam_core.errors import UsageError

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.conformance import Result

__all__ = ["check"]


@click.command(short_help="Examine whether a model's adapter keeps its promises.")
@click.argument("model", metavar="NAME|FOLDER|HUB_ID")
@loading_options
@click.option("--picture", metavar="IMAGE", help="What the model is shown.  [default: a generated picture]")
@click.option("--prompt", metavar="TEXT", help='What it is asked.  [default: "describe the picture"]')
@click.option(
    "--prompt-ids",
    metavar="IDS",
    help="The prompt as token ids with the family's image placeholder, for a checkpoint without tokenizer: "
    "'5 -200 17 3'.",
)
@click.option(
    "--only", "names", metavar="CHECK", multiple=True, help="Examine this promise only. May be repeated."
)
@click.option("--json", "out", metavar="FILE", help="Write the results as JSON too.")
@click.pass_obj
def check(
    session: Session,
    *,
    model: str,
    loading: dict[str, Any],
    picture: str | None,
    prompt: str | None,
    prompt_ids: str | None,
    names: tuple[str, ...],
    out: str | None,
) -> int:
    """Examine whether a model's adapter keeps its promises.

    Are the image tokens where they are said to be, is a replay what the run decided by, is the model left as it
    was found, and more. Prints one line per promise: pass with figures, fail with what was found, or skipped
    with the reason. Exits with 1 if one is broken.

    Example: dcam check tiny-llada-v
    """
    from dcam_core.conformance import CHECKS, Subject, examine
    from dcam_core.conformance.subject import DEFAULT_PROMPT
    from dcam_core.errors import UnknownNameError
    from dcam_core.models import load_model
    from dcam_core.picture import read_picture

    known = {each.name: each for each in CHECKS}
    for name in names:
        if name not in known:
            raise UnknownNameError("check", name, known)
    if prompt is not None and prompt_ids is not None:
        raise UsageError(
            "--prompt and --prompt-ids are given: they are two ways to ask, leave one of them out"
        )
    if out is not None:
        _check_writable(Path(out))
    shown = None if picture is None else read_picture(picture)
    ids = None if prompt_ids is None else _ids(prompt_ids)
    # What needs no model is checked by now: loading one may take minutes.
    loaded = load_model(model, manager=session.manager, **loading)
    if loaded.tokenizer is None and ids is None:
        raise UsageError(
            f"{loaded.name} has no tokenizer (no tokenizer.json beside its weights): give the prompt as token ids, "
            "with --prompt-ids"
        )
    subject = Subject(loaded, shown, prompt or DEFAULT_PROMPT, ids, session.manager)
    results = []
    for result in examine(subject, [known[name] for name in names] or CHECKS):
        click.echo(str(result))
        results.append(result)
    counts = Counter(result.status for result in results)
    click.echo(
        f"{loaded.name} ({loaded.family}): {counts['pass']} passed, {counts['fail']} failed, "
        f"{counts['skipped']} skipped"
    )
    if out is not None:
        text = json.dumps(_record(loaded, results), indent=2, ensure_ascii=False)
        Path(out).write_text(text + "\n", encoding="utf-8")
    return int(counts["fail"] > 0)


def _record(adapter: Adapter, results: Sequence[Result]) -> dict[str, Any]:
    """The results as plain data."""
    import torch

    return {
        "model": adapter.name,
        "family": adapter.family,
        "device": str(adapter.device),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "versions": {"dcam": dcam_core.__version__, "torch": str(torch.__version__)},
        "checks": [dataclasses.asdict(result) for result in results],
    }


def _ids(text: str) -> Any:
    """[1, n] int64 out of numbers with blanks or commas between them."""
    import torch

    try:
        ids = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        ids = []
    if not ids:
        raise click.BadParameter(
            f"{text!r} is no list of token ids: write '5 -200 17'", param_hint="--prompt-ids"
        )
    return torch.tensor([ids])


def _check_writable(path: Path) -> None:
    """Refuse what cannot be written before minutes of work, not after them."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--json {path} cannot be written: give a file in a folder that exists")
