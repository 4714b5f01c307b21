"""The deciding and observing hooks as one engine calls them: who is asked, in which order, how guarded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import PluginWarning, describe
from dcam_core.plugins.fit import declared_arguments
from dcam_core.plugins.info import missing_because
from dcam_core.plugins.relay import Relay, call, relay_of
from dcam_core.plugins.trace import Brief, logger

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager

__all__ = ["By", "Decision", "EngineHooks"]

By = Literal["user", "setting", "plugin", "core"]


@dataclass(frozen=True, eq=False)
class Decision:
    """An answer to a deciding hook, and who gave it.

    Attributes:
        hook: name of the hook.
        answer: what was answered; never None.
        plugin: name of the plugin.
        origin: whose it is, for messages and records: "plugin 'sharp' (dcam-sharp 1.0)".
        by: where it came from: "user" (passed to this engine), "setting" (the method names it), "plugin"
            (installed), or "core".
    """

    hook: str
    answer: Any
    plugin: str
    origin: str
    by: By

    def refused(self, found: str, expected: str) -> PluginError:
        """The error that says that the answer is of no use.

        Args:
            found: what was answered ("a list").
            expected: what the hook promises ("a GradientTarget").
        """
        return PluginError(
            self.plugin, f"{self.origin} answered {self.hook} with {found}: expected {expected}"
        )


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
        functions: name of a deciding hook -> a function of any name that the user passed for it. Asked before
            `extra`.
        settings: plugins that answer what the method leaves no doubt about. Asked after all that the user
            passed, before installed plugins.

    Attributes:
        missing: a sentence on the plugins that failed or are switched off; "" if all are there.

    Raises:
        PluginError: something in `extra` or `functions` does not fit the hooks, or wants to register things.
    """

    def __init__(
        self,
        manager: PluginManager,
        family: str,
        extra: Iterable[object] = (),
        defaults: Iterable[object] = (),
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        settings: Iterable[object] = (),
    ) -> None:
        self._strict = manager.strict
        adapters = manager.registries.adapters
        self._own = {adapters.entry(family).plugin} if family in adapters else set()
        self._foreign = {entry.plugin for entry in adapters} - self._own
        self._user = relay_of(extra, "passed to this engine", functions)
        self._settings = relay_of(settings, "the method's setting")
        self._installed = manager.relay
        self._core = relay_of(defaults, "dcam's own")
        self.missing, _ = missing_because(manager.plugins)

    def decide(self, hook: str, /, **arguments: Any) -> Decision | None:
        """The first answer to a deciding hook that is not None.

        Args:
            hook: name of the hook.
            arguments: every argument that the hook declares.

        Returns:
            The answer and who gave it, or None if nobody answered.

        Raises:
            DcamError: as a plugin raised it.
            PluginError: a plugin raised anything else.
        """
        self._check(hook, arguments)
        logger.debug("%s(%s)", hook, Brief(arguments))
        for by, relay, implementation in self._deciders(hook):
            origin = relay.origin(implementation.plugin_name)
            try:
                answer = call(implementation, arguments)
            except DcamError as error:
                error.add_note(f"raised in {hook} of {origin}")
                raise
            # A plugin that calls sys.exit() must not end the program without a word.
            except (Exception, SystemExit) as error:
                raise _failed(implementation, origin, hook, error) from error
            if answer is not None:
                logger.debug("  %s -> %s: this answer holds", origin, Brief(answer))
                return Decision(hook, answer, implementation.plugin_name, origin, by)
            if by != "core":  # that most of dcam's own are asked for another name is no news
                logger.debug("  %s -> None: passes the question on", origin)
        logger.debug("  nobody answered")
        return None

    def observe(self, hook: str, /, **arguments: Any) -> None:
        """Let every plugin hear something; one that fails is named in a warning and disturbs nobody.

        Args:
            hook: name of the hook.
            arguments: every argument that the hook declares.

        Raises:
            PluginError: a plugin failed, and the manager is strict.
        """
        self._check(hook, arguments)
        for relay in (self._user, self._installed):
            for implementation in relay.implementations(hook):
                origin = relay.origin(implementation.plugin_name)
                try:
                    call(implementation, arguments)
                except (Exception, SystemExit) as error:
                    failure = _failed(implementation, origin, hook, error)
                    logger.debug("%s: %s failed", hook, origin)
                    if self._strict:
                        raise failure from error
                    warnings.warn(f"{failure}; the run goes on without it", PluginWarning, stacklevel=2)
                else:
                    logger.debug("%s: %s heard it", hook, origin)

    def _check(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """An engine that forgets an argument is wrong even if nobody asks for it today."""
        declared = declared_arguments(hook)
        if set(arguments) != set(declared):
            raise TypeError(f"{hook} takes {', '.join(declared)}; given: {', '.join(arguments) or 'nothing'}")

    def _deciders(self, hook: str) -> list[tuple[By, Relay, pluggy.HookImpl]]:
        installed = self._installed.implementations(hook, leave_out=self._foreign)
        own = [implementation for implementation in installed if implementation.plugin_name in self._own]
        others = [
            implementation for implementation in installed if implementation.plugin_name not in self._own
        ]
        groups: list[tuple[By, Relay, list[pluggy.HookImpl]]] = [
            ("user", self._user, self._user.implementations(hook)),
            ("setting", self._settings, self._settings.implementations(hook)),
            ("plugin", self._installed, [*own, *others]),
            ("core", self._core, self._core.implementations(hook)),
        ]
        return [(by, relay, implementation) for by, relay, group in groups for implementation in group]


def _failed(implementation: pluggy.HookImpl, origin: str, hook: str, error: BaseException) -> PluginError:
    return PluginError(implementation.plugin_name, f"{origin} failed in {hook}: {describe(error)}")
