"""Make a registered thing with the user's parameters; what goes wrong is one line that names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dcam_core.errors import ConfigurationError, DcamError, PluginError, UnknownNameError
from dcam_core.plugins.entry import Entry
from dcam_core.plugins.failure import describe

__all__ = ["check_parameters", "make", "missing_parameters"]

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
    what = f"{entry.kind} {entry.name!r}"
    check_parameters(what, kind, parameters)
    try:
        return kind(**parameters)
    except DcamError:
        raise
    except (TypeError, ValueError) as error:
        # Where further keywords are passed on, only what takes them in the end knows which there are.
        own = _named(kind)
        rest = "" if parameters.keys() <= own.keys() else f" (its own parameters: {', '.join(own) or 'none'})"
        raise ConfigurationError(f"{what} cannot be made with {dict(parameters)}: {error}{rest}") from error
    except Exception as error:
        raise PluginError(
            entry.plugin, f"{entry.label} cannot be made with {dict(parameters)}: {describe(error)}"
        ) from error


def check_parameters(what: str, kind: Callable[..., object], parameters: Mapping[str, Any]) -> None:
    """Hold parameters to the names that a class takes.

    Python's own complaint speaks of `__init__()`, which whoever wrote a setting has never seen, and does not say
    which names there are.

    Args:
        what: what is to be made, for the message: "refiner 'min-max'".
        kind: the class.
        parameters: keyword arguments for it.

    Raises:
        ConfigurationError: it has no such parameter, or needs one that is not given.
    """
    own = _named(kind)
    further = any(each.kind == each.VAR_KEYWORD for each in inspect.signature(kind).parameters.values())
    unknown = [] if further else [name for name in parameters if name not in own]
    if unknown:
        reason = str(UnknownNameError("parameter", unknown[0], own))
    elif missing := missing_parameters(kind, parameters):
        reason = f"it needs {' and '.join(missing)}"
    else:
        return
    raise ConfigurationError(f"{what} cannot be made with {dict(parameters)}: {reason}")


def missing_parameters(kind: Callable[..., object], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the parameters that a class cannot do without and that are not given."""
    return tuple(
        name for name, each in _named(kind).items() if each.default is each.empty and name not in parameters
    )


def _named(kind: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name."""
    return {
        name: each
        for name, each in inspect.signature(kind).parameters.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
