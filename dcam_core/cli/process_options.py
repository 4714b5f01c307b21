"""The options of every command whose work several processes can share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["asked_for", "process_options", "speaks"]


def process_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets what they say as `processes`: keywords of what it calls."""

    @click.option(
        "--devices",
        metavar="N|auto",
        help="Share the work between so many devices per node, of the kind that --device names: a process with a "
        "model each.  [default: one process]",
    )
    @click.option(
        "--nodes",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of nodes that share it.",
    )
    @click.option(
        "--strategy",
        metavar="NAME",
        help="How Lightning starts and connects the processes: ddp, ddp_notebook.  [default: ddp]",
    )
    @functools.wraps(command)
    def with_processes(
        *args: Any, devices: str | None, nodes: int, strategy: str | None, **others: Any
    ) -> Any:
        return command(*args, processes={"devices": devices, "nodes": nodes, "strategy": strategy}, **others)

    return with_processes


def asked_for(processes: dict[str, Any]) -> bool:
    """Whether the options ask for anything but this one process."""
    return processes != {"devices": None, "nodes": 1, "strategy": None}


def speaks(processes: dict[str, Any]) -> bool:
    """Whether this process tells the user what came of the work: of several, the first does."""
    from dcam_core.distributed import Processes

    return not asked_for(processes) or Processes.is_first()
