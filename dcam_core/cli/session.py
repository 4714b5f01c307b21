"""What the global options say, for the commands and for the handler of errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from dcam_core.plugins import PluginManager
from dcam_core.plugins.registry import normalise

__all__ = ["Session"]


@dataclass
class Session:
    """One call of the command line.

    Attributes:
        verbosity: how many `-v` were given; 2 shows tracebacks.
        plugin_switches: the values of `-p` in order: "NAME" or "no:NAME".
    """

    verbosity: int = 0
    plugin_switches: tuple[str, ...] = field(default=())

    def start(self, verbosity: int, plugin_switches: Iterable[str]) -> None:
        """Take over the global options."""
        self.verbosity, self.plugin_switches = verbosity, tuple(plugin_switches)
        levels = {0: logging.WARNING, 1: logging.INFO}
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("dcam").setLevel(levels.get(verbosity, logging.DEBUG))
        if os.environ.get("DCAM_TRACE_PLUGINS", "") not in ("", "0"):
            logging.getLogger("dcam.plugins").setLevel(logging.DEBUG)

    @cached_property
    def manager(self) -> PluginManager:
        """The plugins, with the switches applied; of two that contradict each other the later one holds."""
        wanted: dict[str, str] = {}
        blocked: set[str] = set()
        for switch in self.plugin_switches:
            name = switch.removeprefix("no:")
            if switch.startswith("no:"):
                blocked.add(normalise(name))
                wanted.pop(normalise(name), None)
            else:
                blocked.discard(normalise(name))
                wanted[normalise(name)] = name
        return PluginManager(extra=wanted.values(), blocked=blocked)
