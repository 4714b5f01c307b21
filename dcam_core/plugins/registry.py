"""Registries: what plugins offer, by kind and name, imported only when somebody asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dcam_core.errors import CheckpointError, PluginError, UnknownNameError
from dcam_core.plugins.entry import Contract, Entry, file, folder, import_object, normalise, subclass_of
from dcam_core.plugins.info import PluginInfo, missing_because

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.attribution import Attribution, ModelAttribution
    from dcam_core.dataset import ExplanationDataset
    from dcam_core.metric import Metric
    from dcam_core.model_measure import ModelMeasure
    from dcam_core.refiner import Refiner

__all__ = ["AdapterRegistry", "Entry", "Registries", "Registry", "import_object", "normalise"]

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name. Iterating gives the entries in the order of their names.

    Args:
        kind: what they are, in the singular ("refiner"), for messages.
        plugins: all plugins there are (a live sequence): an unknown name may be that of one that is not loaded.
        contract: what the things must be; None: anything.
    """

    def __init__(
        self, kind: str, plugins: Sequence[PluginInfo] = (), contract: Contract | None = None
    ) -> None:
        self.kind = kind
        self._plugins = plugins
        self._contract = contract
        self._entries: dict[str, Entry[T]] = {}

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and normalise(name) in self._entries

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._entries))

    def add(
        self,
        name: str,
        target: T | str,
        *,
        plugin: str,
        distribution: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Entry[T]:
        """Add one thing.

        Args:
            name: how users ask for it; normalised.
            target: the thing, or an import string for it.
            plugin: name of the plugin that registers it.
            distribution: the distribution that brought the plugin.
            metadata: facts known without importing it.

        Returns:
            The new entry.

        Raises:
            PluginError: the name is taken or is none, or a string target is no import string.
        """
        if not isinstance(name, str) or not name.strip():
            raise PluginError(plugin, f"{self.kind} is registered under {name!r}: its name must be a string")
        facts = MappingProxyType(dict(metadata or {}))
        entry = Entry(self.kind, normalise(name), target, plugin, distribution, facts, self._contract)
        taken = self._entries.get(entry.name)
        if taken is not None:
            raise PluginError(
                plugin,
                f"{entry.label} is already registered by {taken.origin}, which stays: rename it, or switch one "
                f"of the two off (`-p no:{taken.plugin}`)",
            )
        self._entries[entry.name] = entry
        return entry

    def discard(self, plugin: str) -> None:
        """Remove everything that a plugin registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.plugin != plugin}

    def entry(self, name: str) -> Entry[T]:
        """The entry of a name, without importing its target.

        Raises:
            UnknownNameError: nobody registered the name. If a plugin that failed, was blocked or was not
                loaded may offer it, the message says so; of one that failed, `__cause__` is a `PluginLoadError`
                with the record (or a group of them, if several may be meant).
        """
        key = normalise(name)
        if key in self._entries:
            return self._entries[key]
        hint, cause = missing_because(self._plugins, name)
        raise UnknownNameError(self.kind, name, self.names, hint) from cause

    def get(self, name: str) -> T:
        """The thing registered under a name, imported now if it was not before.

        Raises:
            UnknownNameError: nobody registered the name.
            PluginError: its import failed, or it is not what its kind promises.
        """
        return self.entry(name).load()


class AdapterRegistry(Registry["type[Adapter]"]):
    """Adapters by family, and the recognition of a checkpoint's family from its config.json."""

    def add(
        self,
        name: str,
        target: type[Adapter] | str,
        *,
        plugin: str,
        distribution: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Entry[type[Adapter]]:
        """Add an adapter; `architectures`, `model_types` and `tensors` must be lists of strings."""
        for fact in ("architectures", "model_types", "tensors"):
            if isinstance((metadata or {}).get(fact, ()), str):
                raise PluginError(plugin, f"{fact} of adapter {name!r} is a string: give a list of strings")
        for pattern in (metadata or {}).get("tensors", ()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise PluginError(
                    plugin, f"tensors of adapter {name!r}: {pattern!r} is no regular expression: {error}"
                ) from error
        return super().add(name, target, plugin=plugin, distribution=distribution, metadata=metadata)

    def recognise(self, config: Mapping[str, Any]) -> Entry[type[Adapter]]:
        """The adapter of a checkpoint, from its config.json alone.

        Args:
            config: the parsed config.json; see `claims`.

        Returns:
            The one entry that claims the checkpoint.

        Raises:
            CheckpointError: no adapter claims it, or several do.
        """
        claims = self.claims(config)
        if len(claims) == 1:
            return claims[0]
        found = (
            f"config.json says architectures {config.get('architectures')!r}, "
            f"model_type {config.get('model_type')!r}"
        )
        if claims:
            names = ", ".join(f"{entry.name} ({entry.origin})" for entry in claims)
            raise CheckpointError(
                f"{found}: several adapters claim it: {names}; name one with adapter= (--adapter)"
            )
        hint, cause = missing_because(self._plugins)
        raise CheckpointError(
            f"{found}: no adapter claims it; there are {', '.join(self.names) or 'none'}; name one with "
            f"adapter= (--adapter), or install a plugin for this family{'. ' + hint if hint else ''}"
        ) from cause

    def claims(self, config: Mapping[str, Any]) -> list[Entry[type[Adapter]]]:
        """The adapters that claim a checkpoint.

        An architecture names one model class and counts first; a model type may be shared by families and
        counts only where no architecture is known.

        Args:
            config: the parsed config.json; `architectures` and `model_type` are read.
        """
        architectures = config.get("architectures") or ()
        if isinstance(architectures, str):
            architectures = (architectures,)
        claims = self._claiming("architectures", architectures)
        return claims or self._claiming("model_types", (config.get("model_type"),))

    def resembling(self, names: Iterable[str]) -> list[Entry[type[Adapter]]]:
        """The adapters whose checkpoints have tensors of these names, as far as they say so.

        An adapter's patterns must all be found; of several such adapters those count that recognise the most
        names, because one family's names may be a part of another's.

        Args:
            names: names of all tensors of a checkpoint.
        """
        names = list(names)
        scores: dict[str, int] = {}
        for entry in self:
            patterns = [re.compile(pattern) for pattern in entry.metadata.get("tensors", ())]
            found = [{name for name in names if pattern.fullmatch(name)} for pattern in patterns]
            if found and all(found):
                scores[entry.name] = len(set().union(*found))
        most = max(scores.values(), default=0)
        return [self.entry(name) for name, score in scores.items() if score == most]

    def _claiming(self, fact: str, values: Iterable[object]) -> list[Entry[type[Adapter]]]:
        wanted = list(values)
        return [entry for entry in self if any(value in wanted for value in entry.metadata.get(fact, ()))]


class Registries:
    """One registry per kind; the attribute's name is the kind, as in the hook `dcam_register_<kind>`.

    Args:
        plugins: all plugins there are (a live sequence).
    """

    def __init__(self, plugins: Sequence[PluginInfo] = ()) -> None:
        self.adapters = AdapterRegistry("adapter", plugins, subclass_of("dcam_core.adapter:Adapter"))
        self.attributions: Registry[type[Attribution | ModelAttribution]] = Registry(
            "attribution",
            plugins,
            subclass_of("dcam_core.attribution:Attribution", "dcam_core.attribution:ModelAttribution"),
        )
        self.refiners: Registry[type[Refiner]] = Registry(
            "refiner", plugins, subclass_of("dcam_core.refiner:Refiner")
        )
        self.methods: Registry[Path] = Registry("method", plugins, file)
        self.metrics: Registry[type[Metric | ModelMeasure]] = Registry(
            "metric",
            plugins,
            subclass_of("dcam_core.metric:Metric", "dcam_core.model_measure:ModelMeasure"),
        )
        self.datasets: Registry[type[ExplanationDataset]] = Registry(
            "dataset", plugins, subclass_of("dcam_core.dataset:ExplanationDataset")
        )
        self.papers: Registry[Path] = Registry("paper", plugins, file)
        self.models: Registry[Path] = Registry("model", plugins, folder)

    def items(self) -> Iterator[tuple[str, Registry[Any]]]:
        """(kind, registry) in the order of the registering hooks."""
        return iter(vars(self).items())
