"""Does a plugin fit the hooks? Every misfit is told with what was found, and what there is instead."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from dcam_core import hookspecs
from dcam_core.errors import PluginError
from dcam_core.plugins.failure import indefinite

__all__ = ["HOOKS", "MARK", "declared_arguments", "refuse_misfit", "refuse_misfit_function"]

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("dcam_"))
"""Names of all hooks, in the order of their declaration."""

MARK = f"{hookspecs.PROJECT}_impl"
"""Attribute in which `hookimpl` leaves the options of an implementation."""


@functools.cache  # asked before every call of a hook
def declared_arguments(hook: str) -> tuple[str, ...]:
    """Names of the arguments that a hook declares."""
    return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)


def refuse_misfit(plugin: object, name: str) -> None:
    """Refuse a plugin that does not fit the hooks.

    Args:
        plugin: a module or an object with functions marked with `hookimpl`.
        name: its name, for `PluginError.plugin`.

    Raises:
        PluginError: it is a class, it has no hook, a hook's name or argument is unknown, a function that is
            named like a hook is not marked, or a hook cannot simply be called.
    """
    if inspect.isclass(plugin):
        raise PluginError(name, f"it is the class {plugin.__qualname__}: give an instance of it")
    found = False
    for attribute in dir(plugin):
        function = _value(plugin, attribute)
        if not inspect.isroutine(function):
            if attribute in HOOKS:
                raise PluginError(
                    name, f"{attribute} is {indefinite(type(function).__name__)}: write a function"
                )
            continue
        options = getattr(function, MARK, None)
        if options is None:
            if attribute in HOOKS:
                raise PluginError(name, f"{attribute} is named like a hook but not marked: add @hookimpl")
            continue
        found = True
        hook = options["specname"] or attribute
        if hook not in HOOKS:
            if options["optionalhook"]:
                continue
            raise PluginError(name, f"{hook} is no hook of dcam: {_there_are(hook, HOOKS)}")
        if options["wrapper"] or options["hookwrapper"]:
            raise PluginError(name, f"{hook} is a hook wrapper: dcam does not offer them")
        refuse_misfit_function(function, hook, name)
    if not found:
        raise PluginError(name, "it has no function marked with @hookimpl")


def refuse_misfit_function(function: Callable[..., Any], hook: str, name: str) -> None:
    """Refuse a function that cannot be called with (some of) a hook's arguments.

    Args:
        function: what is to answer the hook.
        hook: name of the hook.
        name: name of the plugin, for `PluginError.plugin`.

    Raises:
        PluginError: it wants an argument that the hook does not have, or any number of arguments, or it is a
            generator or coroutine function.
    """
    if (
        inspect.isgeneratorfunction(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise PluginError(name, f"{hook} is a generator or async function: write one that simply returns")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise PluginError(
            name, f"{hook} is answered by {function!r}, whose arguments cannot be read: write a function"
        ) from error
    declared = declared_arguments(hook)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                name, f"{hook} takes {parameter}: name the arguments that it wants, of {', '.join(declared)}"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise PluginError(
                name, f"{hook} takes {parameter.name!r} by position only: arguments are passed by name"
            )
        if parameter.name not in declared and parameter.default is parameter.empty:
            raise PluginError(
                name,
                f"{hook} asks for the argument {parameter.name!r}, which this hook does not have: "
                f"{_there_are(parameter.name, declared)}",
            )


def _value(plugin: object, attribute: str) -> object:
    """An attribute of a plugin. Properties are left alone: reading one may do anything."""
    if isinstance(getattr(type(plugin), attribute, None), property):
        return None
    return getattr(plugin, attribute, None)


def _there_are(name: str, names: Iterable[str]) -> str:
    names = tuple(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"there are {', '.join(names)}." + (f" Did you mean {close[0]!r}?" if close else "")
