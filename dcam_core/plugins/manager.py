"""Finding and loading plugins, each alone: one that fails is set aside, recorded, and disturbs nobody.

A plugin is an entry point of the group "dcam"; the shipped adapters and methods are entry points of the
distribution `dcam` and come in through the same door. Names are read without importing anything; plugins
are imported when something is first asked for. Switches, read when a manager is made:

* `DCAM_DISABLE_PLUGIN_AUTOLOAD=1`: load no entry point that is not named explicitly;
* `DCAM_PLUGINS=a,b`: further plugins, names of entry points or of modules;
* `DCAM_STRICT_PLUGINS=1`: raise where a plugin would be set aside, for authors and continuous integration.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcam_core.hookspecs import PROJECT, Register
from dcam_core.plugins.engine_hooks import EngineHooks
from dcam_core.plugins.failure import PluginFailure, PluginLoadError, PluginWarning
from dcam_core.plugins.registry import Registries, Registry, normalise
from dcam_core.plugins.relay import REGISTERING, Relay

__all__ = ["PluginInfo", "PluginManager", "default_manager"]


@dataclass(frozen=True)
class PluginInfo:
    """One line of the list of plugins.

    Attributes:
        name: name of the plugin.
        distribution: the distribution that brings it; "" if it is a module without one.
        version: version of the distribution; "" if there is none.
        source: what is imported.
        status: "loaded", "failed" or "blocked".
        hooks: names of the hooks that it implements.
        offers: kind -> names of what it registered.
        failure: why it failed, or None.
    """

    name: str
    distribution: str
    version: str
    source: str
    status: str
    hooks: tuple[str, ...] = ()
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failure: PluginFailure | None = None


@dataclass(frozen=True)
class _Source:
    """A plugin that is known by name and not imported yet."""

    name: str
    distribution: str
    version: str
    target: str
    load: Callable[[], object] = field(repr=False)


class PluginManager:
    """The plugins of one engine or one command, and what they registered.

    Making a manager imports no plugin. They are loaded when something is first asked for, in this order:
    entry points of `dcam` itself, entry points of other distributions by name, then extra modules.

    Args:
        strict: raise where a plugin would be set aside; None: as `DCAM_STRICT_PLUGINS` says.
        autoload: load installed entry points; None: unless `DCAM_DISABLE_PLUGIN_AUTOLOAD` is set.
        extra: names of entry points or modules to load in any case, beside those in `DCAM_PLUGINS`. They
            are asked for by name: one that fails is an error.
        blocked: names of plugins that are not imported.
    """

    def __init__(
        self,
        *,
        strict: bool | None = None,
        autoload: bool | None = None,
        extra: Iterable[str] = (),
        blocked: Iterable[str] = (),
    ) -> None:
        self.strict = _switch("DCAM_STRICT_PLUGINS") if strict is None else strict
        self._autoload = not _switch("DCAM_DISABLE_PLUGIN_AUTOLOAD") if autoload is None else autoload
        named = [name.strip() for name in os.environ.get("DCAM_PLUGINS", "").split(",")]
        asked = tuple(extra)
        self._required = {normalise(name) for name in asked}
        self._extra = tuple(dict.fromkeys(filter(None, (*named, *asked))))
        self._blocked = {normalise(name) for name in blocked}
        self._failures: list[PluginFailure] = []
        self._infos: list[PluginInfo] = []
        self._registries = Registries(self._failures)
        self._relay = Relay()
        self._loaded = False

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
        self.load()
        return tuple(self._failures)

    def load(self) -> None:
        """Find and load all plugins, once.

        Raises:
            PluginLoadError: a plugin failed that was named in `extra`, or any while the manager is strict.
        """
        if self._loaded:
            return
        # Set first: a plugin that asks for the manager while it is imported must not load them all again.
        self._loaded = True
        for source in self._sources():
            if normalise(source.name) in self._blocked:
                self._infos.append(_info(source, "blocked"))
                continue
            failure = self._load(source)
            if failure is None:
                continue
            if self.strict or normalise(source.name) in self._required:
                raise PluginLoadError(failure)
            self._failures.append(failure)
            self._infos.append(_info(source, "failed", failure=failure))
            warnings.warn(f"{failure}; it is left out", PluginWarning, stacklevel=3)

    def register(self, plugin: object, name: str) -> None:
        """Add an object as a plugin, with everything it registers.

        Raises:
            PluginLoadError: it does not fit the hooks, raised while registering, or claimed a taken name.
        """
        self.load()
        target = getattr(plugin, "__name__", type(plugin).__qualname__)
        failure = self._load(_Source(name, "", "", target, lambda: plugin))
        if failure is not None:
            raise PluginLoadError(failure)

    def block(self, name: str) -> None:
        """Keep a plugin from being imported; one that is loaded already is taken out with all it brought."""
        self._blocked.add(normalise(name))
        for index, info in enumerate(self._infos):
            if info.status == "loaded" and normalise(info.name) == normalise(name):
                self._take_out(info.name)
                self._infos[index] = dataclasses.replace(info, status="blocked", hooks=(), offers={})

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """All plugins there are, in the order of loading: loaded, failed and blocked."""
        self.load()
        return tuple(self._infos)

    def versions(self) -> dict[str, str]:
        """Distribution -> version of all loaded plugins, for manifests and reports."""
        return {
            info.distribution: info.version
            for info in self.plugins
            if info.status == "loaded" and info.version
        }

    def engine_hooks(
        self, family: str, extra: Iterable[object] = (), defaults: Iterable[object] = ()
    ) -> EngineHooks:
        """The deciding and observing hooks as one engine calls them; see `EngineHooks`."""
        return EngineHooks(self, family, extra, defaults)

    def _sources(self) -> Iterator[_Source]:
        points = [_source(point) for point in importlib.metadata.entry_points(group=PROJECT)]
        # Ours first, so that nobody takes a shipped name; the rest in an order that no path decides.
        points.sort(key=lambda source: (source.distribution != PROJECT, source.distribution, source.name))
        wanted = {normalise(name) for name in self._extra}
        yield from (point for point in points if self._autoload or normalise(point.name) in wanted)
        known = {normalise(point.name) for point in points}
        for name in self._extra:
            if normalise(name) not in known:
                yield _Source(name, "", "", name, functools.partial(importlib.import_module, name))

    def _load(self, source: _Source) -> PluginFailure | None:
        """Load one plugin, whole or not at all."""
        phase = "import"
        offered: list[str] = []
        try:
            plugin = source.load()
            phase = "validate"
            self._relay.register(plugin, source.name)
            phase = "register"
            self._let_register(source, offered)
        # A plugin that calls sys.exit() while it is imported must not end the program either.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded, and reported by load()
            trace = "".join(traceback.format_exception(error))
            return PluginFailure(
                source.name, source.distribution, source.version, phase, error, trace, frozenset(offered)
            )
        hooks = tuple(sorted(caller.name for caller in self._relay.get_hookcallers(plugin) or ()))
        offers = {
            kind: names
            for kind, registry in self._registries.items()
            if (names := tuple(entry.name for entry in registry if entry.plugin == source.name))
        }
        self._infos.append(_info(source, "loaded", hooks=hooks, offers=offers))
        return None

    def _let_register(self, source: _Source, offered: list[str]) -> None:
        """Call the registering hooks of one plugin; `offered` collects the names, also if it fails."""

        def register_in(registry: Registry[Any]) -> Register:
            def register(name: str, target: object, /, **metadata: Any) -> None:
                offered.append(normalise(name))
                registry.add(
                    name, target, plugin=source.name, distribution=source.distribution, metadata=metadata
                )

            return register

        try:
            for kind, registry in self._registries.items():
                for implementation in self._relay.implementations(REGISTERING + kind):
                    if implementation.plugin_name == source.name:
                        arguments = {"register": register_in(registry)}
                        implementation.function(*(arguments[name] for name in implementation.argnames))
        except BaseException:
            self._take_out(source.name)
            raise

    def _take_out(self, name: str) -> None:
        self._relay.unregister(name=name)
        for _, registry in self._registries.items():
            registry.discard(name)


def _source(point: importlib.metadata.EntryPoint) -> _Source:
    distribution = point.dist
    return _Source(
        name=point.name,
        distribution=distribution.name if distribution else "",
        version=distribution.version if distribution else "",
        target=point.value,
        load=point.load,
    )


def _info(source: _Source, status: str, **facts: Any) -> PluginInfo:
    return PluginInfo(source.name, source.distribution, source.version, source.target, status, **facts)


def _switch(variable: str) -> bool:
    """Whether an environment variable switches something on: set, and neither empty nor 0."""
    return os.environ.get(variable, "") not in ("", "0")


@functools.cache
def default_manager() -> PluginManager:
    """The manager of everybody who does not bring one, made on first use."""
    return PluginManager()
