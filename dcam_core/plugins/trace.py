"""`DCAM_TRACE_PLUGINS=1`: every plugin that is loaded and every hook that is called, one line each.

The lines are debug messages of the logger "dcam.plugins". Who has set up logging finds them there; for
everybody else the switch also writes them to stderr.
"""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Mapping

__all__ = ["Brief", "logger", "start_tracing", "switched_on"]

logger = logging.getLogger("dcam.plugins")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 70
_SHORT.maxlevel = 3


def switched_on(variable: str) -> bool:
    """Whether an environment variable switches something on: set, and neither empty nor 0."""
    return os.environ.get(variable, "") not in ("", "0")


def start_tracing() -> None:
    """Let the trace be seen, if `DCAM_TRACE_PLUGINS` asks for it."""
    if not switched_on("DCAM_TRACE_PLUGINS"):
        return
    logger.setLevel(logging.DEBUG)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger.addHandler(handler)
        # Whoever sets up logging later must not get every line twice.
        logger.propagate = False


class Brief:
    """A value, or the arguments of a call, on one short line; written only if somebody reads the trace."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        if isinstance(self._value, Mapping):
            return ", ".join(f"{name}={_line(value)}" for name, value in self._value.items())
        return _line(self._value)


def _line(value: object) -> str:
    return " ".join(_SHORT.repr(value).split())
