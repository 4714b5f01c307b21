"""What the global options say, for the commands and for the handler of errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from dcam_core.plugins import PluginManager
from dcam_core.plugins.sources import read_switches

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
        # The trace of plugins has a switch of its own, DCAM_TRACE_PLUGINS.
        logging.getLogger("dcam.plugins").setLevel(logging.INFO)

    @cached_property
    def manager(self) -> PluginManager:
        """The plugins, with the switches applied; of two that contradict each other the later one holds."""
        named, blocked = read_switches(self.plugin_switches)
        return PluginManager(extra=named, blocked=blocked)
