"""The options of every command that loads a model."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import click

__all__ = ["loading_options"]


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets what they say as `loading`: the keywords of `load_model`."""

    @click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
    @click.option(
        "--adapter", metavar="FAMILY", help="Family of the model.  [default: read from config.json]"
    )
    @click.option(
        "--adapter-option",
        "adapter_options",
        metavar="KEY=VALUE",
        multiple=True,
        help="An option of the family's own. May be repeated.",
    )
    @click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps.  [default: cpu]")
    @click.option(
        "--dtype",
        metavar="DTYPE",
        help="float32, float16, bfloat16, float64.  [default: as stored; float32 on the CPU]",
    )
    @click.option(
        "--device-map",
        metavar="NAME|JSON",
        help="Spread the model over devices: auto, balanced, sequential, or module paths as in "
        '\'{"": "cuda:0", "model.layers.30": "disk"}\'. Needs accelerate.',
    )
    @click.option(
        "--quantisation",
        metavar="8bit|4bit",
        help="Quantise the language model while loading. Needs bitsandbytes.",
    )
    @functools.wraps(command)
    def with_loading(
        *args: Any,
        revision: str | None,
        adapter: str | None,
        adapter_options: tuple[str, ...],
        device: str | None,
        dtype: str | None,
        device_map: str | None,
        quantisation: str | None,
        **others: Any,
    ) -> Any:
        settings: dict[str, Any] = {
            "revision": revision,
            "adapter": adapter,
            "device": device,
            "dtype": dtype,
            "device_map": None if device_map is None else _device_map(device_map),
            "quantisation": quantisation,
        }
        return command(*args, loading=settings | _own(adapter_options), **others)

    return with_loading


def _device_map(text: str) -> Any:
    """A name as it is, or the mapping that JSON spells."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no JSON object: {error}", param_hint="--device-map") from error


def _own(options: tuple[str, ...]) -> dict[str, str]:
    """The options of the family's own."""
    if not options:
        return {}
    from dcam_core.models import load_model

    taken = inspect.signature(load_model).parameters
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals or not key.isidentifier() or key in taken:
            raise click.BadParameter(
                f"{option!r} is not KEY=VALUE with an option of a family's own", param_hint="--adapter-option"
            )
    return dict(option.split("=", 1) for option in options)
