"""Finding and loading plugins, each alone: one that fails is set aside, recorded, and disturbs nobody.

A plugin is an entry point of the group "dcam"; the shipped adapters and methods are entry points of the
distribution `dcam` and come in through the same door. What is imported when:

* making a manager: nothing; `dcam --help` and `dcam --version` need no plugin;
* asking what there is: every plugin's own module, because any of them may offer the name or want to hear a
  hook. It registers import strings, so this costs milliseconds and no torch;
* asking for a thing by name: the module of that thing.

Where two plugins claim one name, of a plugin or of a thing, the first one keeps it and the second one is
set aside whole. First are the plugins of `dcam`, then those of other distributions in the order of the
distributions' names, then what the switches name.

Switches, read when a manager is made:

* `DCAM_PLUGINS=a,no:b`: load plugin a (an entry point, a module or "package.module:object") and block b;
* `DCAM_DISABLE_PLUGIN_AUTOLOAD=1`: load no entry point that is not named;
* `DCAM_STRICT_PLUGINS=1`: raise where a plugin would be set aside, for authors and continuous integration;
* `DCAM_TRACE_PLUGINS=1`: tell on stderr what is loaded, who is asked, what is answered, and whose answer holds.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcam_core.errors import PluginError, UnknownNameError
from dcam_core.hookspecs import Register
from dcam_core.plugins.engine_hooks import EngineHooks
from dcam_core.plugins.entry import normalise
from dcam_core.plugins.failure import PluginFailure, PluginLoadError, PluginWarning, indefinite
from dcam_core.plugins.fit import HOOKS
from dcam_core.plugins.info import PluginInfo, Status
from dcam_core.plugins.registry import Registries, Registry
from dcam_core.plugins.relay import REGISTERING, Relay, call, qualified_name
from dcam_core.plugins.sources import Source, find_sources, read_switches, similar
from dcam_core.plugins.trace import logger, start_tracing, switched_on

__all__ = ["PluginManager", "default_manager"]


@dataclass
class _Attempt:
    """How far the loading of one plugin has come: what is recorded if it fails."""

    phase: str = "register"
    hook: str = ""
    offered: list[str] = field(default_factory=list)


class PluginManager:
    """The plugins of one engine or one command, and what they registered.

    Args:
        strict: raise where a plugin would be set aside; None: as `DCAM_STRICT_PLUGINS` says.
        autoload: load installed entry points; None: unless `DCAM_DISABLE_PLUGIN_AUTOLOAD` is set.
        extra: names of entry points, modules or objects ("package.module:object") to load in any case, beside
            those in `DCAM_PLUGINS`. They are asked for by name: one that fails is an error.
        blocked: names of plugins that are not imported, also where `extra` or `DCAM_PLUGINS` name them.
    """

    def __init__(
        self,
        *,
        strict: bool | None = None,
        autoload: bool | None = None,
        extra: Iterable[str] = (),
        blocked: Iterable[str] = (),
    ) -> None:
        start_tracing()
        self.strict = switched_on("DCAM_STRICT_PLUGINS") if strict is None else strict
        self._autoload = not switched_on("DCAM_DISABLE_PLUGIN_AUTOLOAD") if autoload is None else autoload
        self._required = tuple(extra)
        switches = [*os.environ.get("DCAM_PLUGINS", "").split(","), *self._required]
        self._named, self._blocked = read_switches([*switches, *(f"no:{name}" for name in blocked)])
        self._infos: list[PluginInfo] = []
        self._registries = Registries(self._infos)
        self._relay = Relay()
        self._loaded = False
        self._refusal: PluginError | None = None

    # -- what there is ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _sources(self) -> list[Source]:
        return find_sources(self._named)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all plugins there are, loaded or not. Imports none."""
        return tuple(source.name for source in self._sources)

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """All plugins there are, in the order of loading: loaded, failed, blocked and not loaded."""
        self.load()
        return tuple(self._infos)

    @property
    def registries(self) -> Registries:
        """What the plugins offer, by kind; loads the plugins if they are not loaded yet."""
        self.load()
        return self._registries

    @property
    def relay(self) -> Relay:
        """The registered plugins; loads them if they are not loaded yet."""
        self.load()
        return self._relay

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """The plugins that were set aside; loads the plugins if they are not loaded yet."""
        return tuple(info.failure for info in self.plugins if info.failure is not None)

    def require(self, name: str) -> PluginInfo:
        """The facts of a plugin that must be there.

        Args:
            name: its name, or the module that is imported for it.

        Raises:
            PluginLoadError: it failed to load; the record is the cause.
            PluginError: it is blocked, or was not loaded.
            UnknownNameError: there is no such plugin.
        """
        found = [info for info in self.plugins if info.answers_to(name)]
        for info in sorted(found, key=lambda info: info.status != "loaded"):
            if info.failure is not None:
                raise PluginLoadError(info.failure)
            if info.status != "loaded":
                raise PluginError(
                    info.name, f"{info.origin} is {info.status}: switch it on with `-p {info.name}`"
                )
            return info
        raise UnknownNameError("plugin", name, (info.name for info in self.plugins))

    def versions(self) -> dict[str, str]:
        """Distribution -> version of all loaded plugins, for manifests and reports."""
        return {
            info.distribution: info.version
            for info in self.plugins
            if info.status == "loaded" and info.version
        }

    def engine_hooks(
        self,
        family: str,
        extra: Iterable[object] = (),
        defaults: Iterable[object] = (),
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        settings: Iterable[object] = (),
    ) -> EngineHooks:
        """The deciding and observing hooks as one engine calls them; see `EngineHooks`."""
        return EngineHooks(self, family, extra, defaults, functions=functions, settings=settings)

    # -- loading ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find and load all plugins, once.

        Raises:
            PluginError: a plugin failed that was named in `extra`, or any while the manager is strict; then
                also a blocked name that no plugin has. Asked again, the manager says it again.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._loaded:
            return
        # Set first: a plugin that asks for the manager while it is imported must not load them all again.
        self._loaded = True
        try:
            for name in self._blocked:
                self._heed_unknown(name)
            for source in self._sources:
                self._consider(source)
        except PluginError as error:
            self._refusal = error
            raise

    def register(self, plugin: object, name: str) -> None:
        """Add an object as a plugin, with everything it registers.

        Raises:
            PluginLoadError: it does not fit the hooks, raised while registering, or claimed a taken name.
        """
        self.load()
        failure = self._load(Source(name, "", "", qualified_name(plugin), lambda: plugin))
        if failure is not None:
            raise PluginLoadError(failure)

    def block(self, name: str) -> None:
        """Keep a plugin from being imported; one that is loaded already is taken out with all it brought."""
        self._blocked = (*self._blocked, name)
        if not self._loaded:
            return
        known = False
        for index, info in enumerate(self._infos):
            if info.answers_to(name):
                known = True
                if info.status == "loaded":
                    self._take_out(info.name)
                self._infos[index] = dataclasses.replace(
                    info, status="blocked", hooks=(), offers={}, failure=None
                )
        if not known:
            self._heed_unknown(name)

    def _heed_unknown(self, name: str) -> None:
        """Say so if a blocked name is that of no plugin: it may be misspelt."""
        if any(source.answers_to([name]) for source in self._sources):
            return
        message = f"there is no plugin {name!r} to block: {similar(name, self.names)}"
        if self.strict:
            raise PluginError(name, message)
        warnings.warn(message, PluginWarning, stacklevel=4)

    def _consider(self, source: Source) -> None:
        """Load one plugin, unless it is switched off."""
        if source.answers_to(self._blocked):
            self._infos.append(_info(source, "blocked"))
        elif source.installed and not self._autoload and not source.answers_to(self._named):
            self._infos.append(_info(source, "not loaded"))
        else:
            failure = self._load(source)
            if failure is None:
                return
            if self.strict or source.answers_to(self._required):
                raise PluginLoadError(failure)
            self._infos.append(_info(source, "failed", failure=failure))
            warnings.warn(f"{failure}; it is left out", PluginWarning, stacklevel=5)

    def _load(self, source: Source) -> PluginFailure | None:
        """Load one plugin, whole or not at all."""
        attempt = _Attempt()
        try:
            self._refuse_taken(source)
            attempt.phase = "import"
            plugin = source.load()
            attempt.phase = "validate"
            self._relay.register(plugin, source.name, source.origin)
            attempt.phase = "register"
            self._let_register(source, attempt)
        # A plugin that calls sys.exit() while it is imported must not end the program either.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded, and reported by load()
            failure = PluginFailure(
                name=source.name,
                distribution=source.distribution,
                version=source.version,
                phase=attempt.phase,
                cause=error,
                traceback="".join(traceback.format_exception(error)),
                offered=frozenset(attempt.offered),
                hook=attempt.hook,
            )
            logger.debug("%s, from %s", failure, source.target)
            return failure
        callers = self._relay.get_hookcallers(plugin) or ()
        hooks = tuple(sorted(caller.name for caller in callers if caller.name in HOOKS))
        offers = {
            kind: names
            for kind, registry in self._registries.items()
            if (names := tuple(entry.name for entry in registry if entry.plugin == source.name))
        }
        logger.debug("%s from %s: loaded, offers %s", source.origin, source.target, offers or "nothing")
        self._infos.append(_info(source, "loaded", hooks=hooks, offers=offers))
        return None

    def _refuse_taken(self, source: Source) -> None:
        """Refuse a plugin whose name another one has, before it is imported."""
        for info in self._infos:
            if info.status == "loaded" and normalise(info.name) == normalise(source.name):
                raise PluginError(
                    source.name,
                    f"its name is already that of {info.origin}, which stays: uninstall one of the two, or rename "
                    "its entry point",
                )

    def _let_register(self, source: Source, attempt: _Attempt) -> None:
        """Call the registering hooks of one plugin; `attempt` knows what it offered, also if it fails."""

        def register_in(registry: Registry[Any]) -> Register:
            def register(name: str, target: object, /, **metadata: Any) -> None:
                entry = registry.add(
                    name, target, plugin=source.name, distribution=source.distribution, metadata=metadata
                )
                attempt.offered.append(entry.name)

            return register

        try:
            for kind, registry in self._registries.items():
                for implementation in self._relay.implementations(REGISTERING + kind):
                    if implementation.plugin_name == source.name:
                        attempt.hook = REGISTERING + kind
                        answer = call(implementation, {"register": register_in(registry)})
                        _refuse_answer(source.name, attempt.hook, answer)
        except BaseException:
            self._take_out(source.name)
            raise

    def _take_out(self, name: str) -> None:
        self._relay.unregister(name=name)
        for _, registry in self._registries.items():
            registry.discard(name)


def _refuse_answer(plugin: str, hook: str, answer: object) -> None:
    """A registering hook that returns things instead of registering them would be silently without effect."""
    if answer is not None:
        raise PluginError(
            plugin,
            f"{hook} returned {indefinite(type(answer).__name__)}: expected nothing; call register(name, target) "
            "for each thing that is offered",
        )


def _info(source: Source, status: Status, **facts: Any) -> PluginInfo:
    return PluginInfo(source.name, source.distribution, source.version, source.target, status, **facts)


@functools.cache
def default_manager() -> PluginManager:
    """The manager of everybody who does not bring one, made on first use."""
    return PluginManager()
