"""Which plugins there are, by name: read from entry points and switches, without importing any."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dcam_core.errors import PluginError
from dcam_core.hookspecs import PROJECT
from dcam_core.plugins.entry import import_object, normalise
from dcam_core.plugins.failure import origin_of

__all__ = ["Source", "find_sources", "read_switches", "similar"]


@dataclass(frozen=True)
class Source:
    """A plugin that is known by name and not imported yet.

    Attributes:
        name: name of its entry point; of a module that is none, the module's.
        distribution: the distribution that brings it; "" if none does.
        version: version of the distribution; "" if there is none.
        target: what is imported.
        load: imports it.
        installed: whether it is an entry point.
    """

    name: str
    distribution: str
    version: str
    target: str
    load: Callable[[], object] = field(repr=False)
    installed: bool = False

    @property
    def origin(self) -> str:
        """Whose it is, for messages."""
        return origin_of(self.name, self.distribution, self.version)

    def answers_to(self, names: Iterable[str]) -> bool:
        """Whether one of some names means this plugin: its own, or what is imported for it."""
        own = (normalise(self.name), normalise(self.target))
        return any(normalise(name) in own for name in names)


def read_switches(switches: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What "NAME" and "no:NAME" say together; of two that contradict each other the later one holds.

    Returns:
        Names of plugins that somebody asked for, and names of those that are blocked in the end, in order.
    """
    named: dict[str, str] = {}
    blocked: dict[str, str] = {}
    for switch in filter(None, map(str.strip, switches)):
        name = switch.removeprefix("no:")
        if switch.startswith("no:"):
            blocked[normalise(name)] = name
        else:
            named.setdefault(normalise(name), name)
            blocked.pop(normalise(name), None)
    return tuple(named.values()), tuple(blocked.values())


def find_sources(named: Sequence[str]) -> list[Source]:
    """All plugins there are, in the order of loading.

    Args:
        named: names of entry points, modules or objects ("package.module:object") that somebody asked for.

    Returns:
        The entry points of dcam itself, then those of other distributions in the order of their names, then
        what was named and is no entry point.
    """
    installed = [_source(point) for point in importlib.metadata.entry_points(group=PROJECT)]
    # Ours first, so that nobody takes a shipped name; the rest in an order that no path decides.
    installed.sort(key=lambda source: (source.distribution != PROJECT, source.distribution, source.name))
    there = [source.name for source in installed]
    further = [
        Source(name, "", "", name, functools.partial(_import, name, there))
        for name in named
        if not any(source.answers_to([name]) for source in installed)
    ]
    return [*installed, *further]


def similar(name: str, names: Iterable[str]) -> str:
    """What to say of a plugin's name that nobody has: the names there are, and the one that may be meant."""
    known = {normalise(each): each for each in names}
    close = difflib.get_close_matches(normalise(name), known, n=1)
    guess = f" Did you mean {known[close[0]]!r}?" if close else ""
    return f"there are {', '.join(known.values()) or 'none'}.{guess}"


def _source(point: importlib.metadata.EntryPoint) -> Source:
    distribution = point.dist
    return Source(
        name=point.name,
        distribution=distribution.name if distribution else "",
        version=distribution.version if distribution else "",
        target=point.value,
        load=point.load,
        installed=True,
    )


def _import(name: str, there: Sequence[str]) -> object:
    """Import a plugin that is no entry point: a module, or an object of one.

    Raises:
        PluginError: there is no such module.
    """
    try:
        return import_object(name) if ":" in name else importlib.import_module(name)
    except ModuleNotFoundError as error:
        module = name.partition(":")[0]
        # A module that is there and misses another one speaks for itself.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise PluginError(
            name,
            f"{name!r} is neither an installed plugin nor a module that can be imported: {similar(name, there)} "
            "A module is found if its folder is on PYTHONPATH",
        ) from error
