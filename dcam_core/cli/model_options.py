"""The options by which a command loads a model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.plugins import PluginManager

__all__ = ["ModelChoice", "model_options"]


@dataclass(frozen=True)
class ModelChoice:
    """What the options say: which model, and how to load it.

    Attributes:
        name: embedded model, folder or hub id.
        settings: the keyword arguments of `dcam_core.load_model`.
    """

    name: str
    settings: dict[str, Any]

    def load(self, manager: PluginManager) -> Adapter:
        """Load it; see `dcam_core.load_model` for what may go wrong."""
        from dcam_core.models import load_model

        return load_model(self.name, manager=manager, **self.settings)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets what they say as `model`, a `ModelChoice`."""

    @click.option(
        "--model", required=True, metavar="NAME|FOLDER|HUB_ID", help="Embedded model, folder or hub id."
    )
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
    def with_model(
        *args: Any,
        model: str,
        revision: str | None,
        adapter: str | None,
        adapter_options: tuple[str, ...],
        device: str | None,
        dtype: str | None,
        device_map: str | None,
        quantisation: str | None,
        **others: Any,
    ) -> Any:
        settings = {
            "revision": revision,
            "adapter": adapter,
            "device": device,
            "dtype": dtype,
            "device_map": None if device_map is None else _device_map(device_map),
            "quantisation": quantisation,
        }
        own = _own(adapter_options)
        if taken := sorted(set(own) & set(settings)):
            raise click.BadParameter(
                f"{taken[0]!r} has an option of its own: --{taken[0].replace('_', '-')}",
                param_hint="--adapter-option",
            )
        return command(*args, model=ModelChoice(model, settings | own), **others)

    return with_model


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
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{option!r} is not KEY=VALUE", param_hint="--adapter-option")
    return dict(option.split("=", 1) for option in options)
