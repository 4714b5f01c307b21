"""Make a registered thing with the user's parameters; what goes wrong is one line that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcam_core.errors import ConfigurationError, DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.plugins.registry import Entry

__all__ = ["make", "read_parameters"]

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


def read_parameters(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` strings as a mapping; values are read as YAML: 3 is a number.

    Raises:
        ConfigurationError: one is something else.
    """
    for setting in settings:
        if not setting.partition("=")[0].strip() or "=" not in setting:
            raise ConfigurationError(f"{setting!r} is not KEY=VALUE")
    try:
        parameters = OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))
    except (OmegaConfBaseException, ValueError) as error:
        line = " ".join(str(error).split())
        raise ConfigurationError(f"{' '.join(settings)} cannot be read: {line}") from error
    return {str(key): value for key, value in parameters.items()} if isinstance(parameters, dict) else {}
