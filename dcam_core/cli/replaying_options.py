"""The options of every command that replays: what it takes of memory and time, at the same maps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["replaying_options"]


def replaying_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets what they say as `replaying`: keywords of `Explainer`."""

    @click.option(
        "--states-per-forward",
        metavar="N|auto",
        type=_states,
        help="How many replayed states share a forward pass; auto: as many as the free memory will hold.  "
        "[default: 8]",
    )
    @click.option(
        "--targets-per-backward",
        metavar="N",
        type=click.IntRange(min=1),
        help="How many targets of a state share a backward pass.  [default: 1]",
    )
    @click.option(
        "--checkpointing", is_flag=True, help="Compute blocks above the probe anew in backward passes."
    )
    @click.option(
        "--offload", is_flag=True, help="Keep the graph on the CPU between forward and backward passes."
    )
    @functools.wraps(command)
    def with_replaying(
        *args: Any,
        states_per_forward: int | str | None,
        targets_per_backward: int | None,
        checkpointing: bool,
        offload: bool,
        **others: Any,
    ) -> Any:
        asked = {
            "states_per_forward": states_per_forward,
            "targets_per_backward": targets_per_backward,
            "checkpointing": checkpointing or None,
            "offload": offload or None,
        }
        return command(
            *args, replaying={key: value for key, value in asked.items() if value is not None}, **others
        )

    return with_replaying


def _states(text: str) -> int | str:
    """A positive number, or "auto"; what it means is checked where it is used, too."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither a number of at least 1 nor 'auto'")
    return int(text)
