"""The deciding and observing hooks as one engine calls them: who is asked, in which order, how guarded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import PluginWarning, describe
from dcam_core.plugins.relay import relay_of

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager

__all__ = ["EngineHooks"]

logger = logging.getLogger("dcam.plugins")


class EngineHooks:
    """The hooks as an engine with one chosen adapter calls them.

    Implementations are called one by one, so that an exception can be told from whom it came.

    Args:
        manager: the loaded plugins.
        family: the chosen adapter's family. The plugin that registered it is asked before all other
            installed plugins; plugins that bring only other families' adapters do not decide.
        extra: what the user passed to this engine: plugin objects, or functions named like the hook that
            they answer. Asked first, in the order given.
        defaults: plugins with the core's own answers. Asked last, in the order given.

    Raises:
        PluginError: something in `extra` does not fit the hooks, or wants to register things.
    """

    def __init__(
        self,
        manager: PluginManager,
        family: str,
        extra: Iterable[object] = (),
        defaults: Iterable[object] = (),
    ) -> None:
        self._strict = manager.strict
        adapters = manager.registries.adapters
        self._own = {adapters.entry(family).plugin} if family in adapters else set()
        self._foreign = {entry.plugin for entry in adapters} - self._own
        self._user = relay_of(extra, "user")
        self._installed = manager.relay
        self._core = relay_of(defaults, "core")

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first answer to a deciding hook that is not None.

        Args:
            hook: name of the hook.
            arguments: every argument that the hook declares.

        Returns:
            The answer, or None if nobody answered.

        Raises:
            DcamError: as a plugin raised it.
            PluginError: a plugin raised anything else.
        """
        self._check(hook, arguments)
        for implementation in self._deciders(hook):
            try:
                answer = _call(implementation, hook, arguments)
            except DcamError:
                raise
            except Exception as error:
                raise _failed(implementation, hook, error) from error
            if answer is not None:
                return answer
        return None

    def observe(self, hook: str, **arguments: Any) -> None:
        """Let every plugin hear something; one that fails is named in a warning and disturbs nobody.

        Args:
            hook: name of the hook.
            arguments: every argument that the hook declares.

        Raises:
            PluginError: a plugin failed, and the manager is strict.
        """
        self._check(hook, arguments)
        for implementation in [*self._user.implementations(hook), *self._installed.implementations(hook)]:
            try:
                _call(implementation, hook, arguments)
            except Exception as error:
                failure = _failed(implementation, hook, error)
                if self._strict:
                    raise failure from error
                warnings.warn(str(failure), PluginWarning, stacklevel=2)

    def _check(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """An engine that forgets an argument is wrong even if nobody asks for it today."""
        declared = self._installed.declared_arguments(hook)
        if set(arguments) != set(declared):
            raise TypeError(f"{hook} takes {', '.join(declared)}; given: {', '.join(arguments) or 'nothing'}")

    def _deciders(self, hook: str) -> list[pluggy.HookImpl]:
        installed = self._installed.implementations(hook, leave_out=self._foreign)
        own = [implementation for implementation in installed if implementation.plugin_name in self._own]
        others = [
            implementation for implementation in installed if implementation.plugin_name not in self._own
        ]
        return [*self._user.implementations(hook), *own, *others, *self._core.implementations(hook)]


def _call(implementation: pluggy.HookImpl, hook: str, arguments: Mapping[str, Any]) -> Any:
    """Call one implementation with those of the arguments that it asks for."""
    answer = implementation.function(*(arguments[name] for name in implementation.argnames))
    logger.debug("%s of %s -> %r", hook, implementation.plugin_name, answer)
    return answer


def _failed(implementation: pluggy.HookImpl, hook: str, error: Exception) -> PluginError:
    name = implementation.plugin_name
    return PluginError(name, f"plugin {name!r} failed in {hook}: {describe(error)}")
