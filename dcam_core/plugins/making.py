"""Make a registered thing with the user's parameters; what goes wrong is one line that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dcam_core.errors import ConfigurationError, DcamError, PluginError
from dcam_core.plugins.entry import Entry
from dcam_core.plugins.failure import describe

__all__ = ["make"]

T = TypeVar("T")


def make(entry: Entry[type[T]], parameters: Mapping[str, Any]) -> T:
    """An instance of what is registered.

    Args:
        entry: the registered class.
        parameters: keyword arguments for it.

    Raises:
        ConfigurationError: it does not take these parameters.
        PluginError: it fails.
    """
    kind = entry.load()
    try:
        return kind(**parameters)
    except DcamError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{entry.kind} {entry.name!r} cannot be made with {dict(parameters)}: {error}"
        ) from error
    except Exception as error:
        raise PluginError(
            entry.plugin, f"{entry.label} cannot be made with {dict(parameters)}: {describe(error)}"
        ) from error
