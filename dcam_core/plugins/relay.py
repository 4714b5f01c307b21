"""A pluggy manager that knows dcam's hooks and refuses, at once and whole, what does not fit them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import FunctionType, SimpleNamespace

import pluggy

from dcam_core import hookspecs
from dcam_core.errors import PluginError

__all__ = ["REGISTERING", "Relay", "relay_of"]

REGISTERING = "dcam_register_"
"""Prefix of the registering hooks; the kind follows."""


class Relay(pluggy.PluginManager):
    """`pluggy.PluginManager` for dcam's hooks, with checks that pluggy leaves to its users."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of all hooks, in the order of their declaration."""
        return tuple(name for name in vars(hookspecs) if name.startswith("dcam_"))

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin, or raise and leave nothing of it behind.

        Args:
            plugin: a module or object with functions marked with `hookimpl`.
            name: its name; None: its `__name__`, or one made up.

        Returns:
            The name.

        Raises:
            PluginError: the plugin does not fit the hooks, or the name is taken.
        """
        name = name or self.get_canonical_name(plugin)
        if self.has_plugin(name):
            raise PluginError(name, "a plugin of this name is already there")
        if self.is_registered(plugin):
            raise PluginError(name, f"this plugin is already there, as {self.get_name(plugin)!r}")
        self._refuse_unmarked(plugin, name)
        try:
            super().register(plugin, name)
            self.check_pending()
            self._refuse_misfits(plugin, name)
        except pluggy.PluginValidationError as error:
            self.unregister(name=name)
            raise PluginError(name, " ".join(str(error).split())) from error
        except PluginError:
            self.unregister(name=name)
            raise
        return name

    def declared_arguments(self, hook: str) -> tuple[str, ...]:
        """Names of the arguments that a hook declares."""
        return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)

    def implementations(self, hook: str, leave_out: Iterable[str] = ()) -> list[pluggy.HookImpl]:
        """The implementations of a hook in the order in which pluggy would call them.

        Args:
            hook: name of the hook.
            leave_out: names of plugins that do not take part.
        """
        left_out = set(leave_out)
        implementations = getattr(self.hook, hook).get_hookimpls()[::-1]
        return [found for found in implementations if found.plugin_name not in left_out]

    def _refuse_unmarked(self, plugin: object, name: str) -> None:
        for hook in self.hooks:
            if (
                inspect.isroutine(getattr(plugin, hook, None))
                and self.parse_hookimpl_opts(plugin, hook) is None
            ):
                raise PluginError(name, f"{hook} is named like a hook but not marked: add @hookimpl")

    def _refuse_misfits(self, plugin: object, name: str) -> None:
        callers = self.get_hookcallers(plugin)
        if not callers:
            raise PluginError(name, "it has no function marked with @hookimpl")
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin and (implementation.wrapper or implementation.hookwrapper):
                    raise PluginError(name, f"{caller.name} is a hook wrapper: dcam does not offer them")


def relay_of(plugins: Iterable[object], group: str) -> Relay:
    """A relay of plugins that decide and observe but register nothing; the first is asked first.

    Args:
        plugins: plugin objects, or functions named like the hook that they answer.
        group: what they are called in messages ("user").

    Raises:
        PluginError: one of them is no plugin, does not fit the hooks, or wants to register things.
    """
    relay = Relay()
    for number, plugin in reversed(list(enumerate(plugins, start=1))):
        name = f"{group}:{number}:{getattr(plugin, '__name__', type(plugin).__name__)}"
        try:
            relay.register(_as_plugin(plugin, name, relay) if inspect.isfunction(plugin) else plugin, name)
            for caller in relay.get_hookcallers(relay.get_plugin(name)) or ():
                if caller.name.startswith(REGISTERING):
                    raise PluginError(
                        name, f"it registers things ({caller.name}): give it to PluginManager.register"
                    )
        except PluginError as error:
            raise PluginError(name, f"plugin {name!r} cannot be used: {error}") from error
    return relay


def _as_plugin(function: FunctionType, name: str, relay: Relay) -> object:
    """A function as a plugin: marked with `hookimpl`, or simply named like a hook."""
    plugin = SimpleNamespace(**{function.__name__: function})
    if relay.parse_hookimpl_opts(plugin, function.__name__) is not None:
        return plugin
    if function.__name__ not in relay.hooks:
        there = ", ".join(relay.hooks)
        raise PluginError(name, f"it is not named like a hook: there are {there}")
    return SimpleNamespace(**{function.__name__: hookspecs.hookimpl(function)})
