"""A pluggy manager that knows dcam's hooks and refuses, at once and whole, what does not fit them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pluggy

from dcam_core import hookspecs
from dcam_core.errors import PluginError
from dcam_core.plugins.failure import indefinite, origin_of
from dcam_core.plugins.fit import HOOKS, MARK, refuse_misfit, refuse_misfit_function

__all__ = ["REGISTERING", "Relay", "call", "qualified_name", "relay_of"]

REGISTERING = "dcam_register_"
"""Prefix of the registering hooks; the kind follows."""


class Relay(pluggy.PluginManager):
    """`pluggy.PluginManager` for dcam's hooks, with checks that pluggy leaves to its users."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self._origins: dict[str, str] = {}

    def register(self, plugin: object, name: str | None = None, origin: str = "") -> str:
        """Register a plugin, or raise and leave nothing of it behind.

        Args:
            plugin: a module or object with functions marked with `hookimpl`.
            name: its name; None: its `__name__`, or one made up.
            origin: whose it is, for messages; "": `origin_of(name)`.

        Returns:
            The name.

        Raises:
            PluginError: the plugin does not fit the hooks, or the name is taken.
        """
        name = name or self.get_canonical_name(plugin)
        if self.has_plugin(name):
            raise PluginError(name, f"its name is already taken by {self.origin(name)}")
        refuse_misfit(plugin, name)
        if self.is_registered(plugin):
            known = self.origin(str(self.get_name(plugin)))
            raise PluginError(
                name,
                f"{_where(plugin)} is already there as {known}: leave one of the two out, or, if two "
                "distributions brought a module of this name, rename one",
            )
        super().register(plugin, name)
        self._origins[name] = origin or origin_of(name)
        return name

    def origin(self, name: str) -> str:
        """Whose a registered plugin is, for messages."""
        return self._origins[name]

    def implementations(self, hook: str, leave_out: Iterable[str] = ()) -> list[pluggy.HookImpl]:
        """The implementations of a hook in the order in which pluggy would call them.

        Args:
            hook: name of the hook.
            leave_out: names of plugins that do not take part.
        """
        left_out = set(leave_out)
        implementations = getattr(self.hook, hook).get_hookimpls()[::-1]
        return [found for found in implementations if found.plugin_name not in left_out]


def call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    """Call one implementation, by name, with those of the arguments that it asks for."""
    wanted = inspect.signature(implementation.function).parameters
    return implementation.function(**{name: arguments[name] for name in wanted if name in arguments})


def relay_of(
    plugins: Iterable[object], origin: str, functions: Mapping[str, Callable[..., Any]] | None = None
) -> Relay:
    """A relay of plugins that decide and observe but register nothing; the first is asked first.

    Args:
        plugins: plugin objects, or functions named like the hook that they answer.
        origin: where they came from, for messages ("passed to this engine").
        functions: name of a hook -> a function of any name that answers it; asked before `plugins`.

    Raises:
        PluginError: one of them is no plugin, does not fit the hooks, or wants to register things.
    """
    candidates: list[tuple[object, str | None]] = [(plugin, None) for plugin in plugins]
    candidates[:0] = [(function, hook) for hook, function in (functions or {}).items()]
    relay = Relay()
    for number, (candidate, hook) in reversed(list(enumerate(candidates, start=1))):
        label = qualified_name(candidate)
        name = label if not relay.has_plugin(label) else f"{label} ({number})"
        as_what = "" if hook is None else f" as {hook.removeprefix('dcam_')}"
        whose = f"{'function' if inspect.isroutine(candidate) else 'plugin'} {label!r} ({origin}{as_what})"
        try:
            relay.register(_as_plugin(candidate, hook, name), name, whose)
            for caller in relay.get_hookcallers(relay.get_plugin(name)) or ():
                if caller.name.startswith(REGISTERING):
                    raise PluginError(
                        name, f"it registers things ({caller.name}): give it to PluginManager.register"
                    )
        except PluginError as error:
            raise PluginError(name, f"{whose} cannot be used: {error}") from error
    return relay


def qualified_name(thing: object) -> str:
    """How a plugin object, a function or a class is called in messages and records."""
    if inspect.ismodule(thing):
        return thing.__name__
    if isinstance(thing, functools.partial):
        return qualified_name(thing.func)
    named: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _as_plugin(candidate: object, hook: str | None, name: str) -> object:
    """A plugin as it is; a function as a plugin that answers the hook that it is given for, or named like."""
    if isinstance(candidate, str):
        raise PluginError(
            name, f"{candidate!r} is a name: give the plugin itself, or load it by PluginManager(extra=)"
        )
    if hook is None and not inspect.isroutine(candidate):
        return candidate
    if not callable(candidate):
        raise PluginError(name, f"it is {indefinite(type(candidate).__name__)}: give a function")
    if hook is None:
        options = getattr(candidate, MARK, None)
        own = getattr(candidate, "__name__", "")
        hook = own if options is None else options["specname"] or own
        if hook not in HOOKS:
            raise PluginError(name, f"it is not named like a hook: there are {', '.join(HOOKS)}")
    refuse_misfit_function(candidate, hook, name)
    function = candidate

    # A marked stand-in: the user's function is not written to, and need not be one that can be.
    def answer(**arguments: Any) -> Any:
        return function(**arguments)

    answer.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return SimpleNamespace(**{hook: hookspecs.hookimpl(answer, specname=hook)})


def _where(plugin: object) -> str:
    """A plugin and, if it is a module, the file that it was read from."""
    if not inspect.ismodule(plugin):
        return f"the object {qualified_name(plugin)}"
    return f"module {plugin.__name__!r} ({getattr(plugin, '__file__', None) or 'no file'})"
