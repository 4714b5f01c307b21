"""Which methods an evaluation compares: those that are named, what studies make of them, and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from omegaconf import OmegaConf

from dcam_core.errors import ConfigurationError
from dcam_core.evaluation.sample import CEILING
from dcam_core.explainer import Explainer
from dcam_core.method import Method, find_method, resolve_method
from dcam_core.plugins.making import make

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.evaluation.studies import Study
    from dcam_core.plugins import PluginManager

__all__ = ["Expanded", "Variant", "baseline_methods", "expand", "named_methods", "rows_of_a_table"]


@dataclass(frozen=True)
class Variant:
    """A method of an evaluation.

    Attributes:
        label: its name in tables and files; no other has the same.
        source: a preset, or the path of a YAML file.
        overrides: settings laid over it, a nested mapping.
    """

    label: str
    source: str | Path
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def explainer(self, model: Adapter, manager: PluginManager, **replaying: Any) -> Explainer:
        """The method, ready for a model; `replaying` are the keywords of `Explainer` that bound memory."""
        return Explainer(model, self.source, overrides=self.overrides, manager=manager, **replaying)

    def changed(self, label: str, overrides: Mapping[str, Any]) -> Variant:
        """The same under another name, with further settings laid over it."""
        merged = OmegaConf.to_container(OmegaConf.merge(dict(self.overrides), dict(overrides)))
        return Variant(label, self.source, cast("dict[str, Any]", merged))

    def method(self, manager: PluginManager, checkpoint: Path | None = None) -> Method:
        """The method with its settings.

        Args:
            manager: the plugins.
            checkpoint: folder of the model, which may hold settings that suit it; None: they are not known.

        Raises:
            ConfigurationError: a setting is wrong; or it is one of the sampler, which all methods share.
        """
        name, path = find_method(self.source, manager.registries.methods)
        method = resolve_method(name, path, checkpoint=checkpoint, overrides=self.overrides)
        if method.sampler:
            raise ConfigurationError(
                f"method {self.label!r} sets the sampler ({', '.join(method.sampler)}): all methods explain the same "
                "answer; take its sampler settings out"
            )
        return method

    def check(self, manager: PluginManager) -> None:
        """Make what needs no model, to find out early what is wrong.

        Raises:
            UnknownNameError: there is no such attribution or refiner.
            ConfigurationError: it does not take such parameters.
        """
        method, registries = self.method(manager), manager.registries
        attribution = dict(method.attribution)
        make(registries.attributions.entry(str(attribution.pop("name"))), attribution)
        for name, parameters in method.refiners.items():
            if parameters is not None:
                make(registries.refiners.entry(name), parameters)


def named_methods(methods: Sequence[str | Path | Variant], manager: PluginManager) -> list[Variant]:
    """The methods that a user names.

    Args:
        methods: presets, paths of YAML files, or variants of either; "all" stands for all presets that are not named
            and are no baselines.
        manager: the plugins.

    Raises:
        UnknownNameError: there is no such preset.
        ConfigurationError: none is named, or two have the same name.
    """
    if not methods:
        raise ConfigurationError("no method is named: give at least one")
    named: dict[str, Variant] = {}
    for method in _without_all(methods, manager):
        if isinstance(method, Variant):
            variant = method
        else:
            variant = Variant(find_method(method, manager.registries.methods)[0], method)
        _add(named, variant, taken=variant.label in named)
    return list(named.values())


def _without_all(
    methods: Sequence[str | Path | Variant], manager: PluginManager
) -> Iterator[str | Path | Variant]:
    """The methods with presets in place of "all"."""
    registry = manager.registries.methods
    single = [each for each in methods if each != "all"]
    yield from single
    if len(single) < len(methods):
        named = {registry.entry(each).name for each in single if isinstance(each, str) and each in registry}
        yield from (
            entry.name for entry in registry if entry.name not in named and not entry.metadata.get("baseline")
        )


def baseline_methods(named: Iterable[Variant], manager: PluginManager) -> list[Variant]:
    """The presets that were registered as baselines and are not among those that were named.

    Raises:
        ConfigurationError: a file that was named has the name of a baseline.
    """
    registry = manager.registries.methods
    labels = {each.label: each.source for each in named}
    found: dict[str, Variant] = {}
    for entry in registry:
        if entry.metadata.get("baseline") and not (entry.name in labels and labels[entry.name] in registry):
            _add(found, Variant(entry.name, entry.name), taken=entry.name in labels)
    return list(found.values())


class Expanded(NamedTuple):
    """What studies make of the methods that were named.

    Attributes:
        variants: all of them, each method with its variants behind it.
        studied: study, as it is asked for -> method -> label of a variant -> where it stands in the study's picture.
            Plain data, which is kept with an evaluation.
    """

    variants: tuple[Variant, ...]
    studied: dict[str, dict[str, dict[str, Any]]]


def expand(
    named: Sequence[Variant],
    studies: Sequence[Study],
    depth: int,
    manager: PluginManager,
    checkpoint: Path | None = None,
) -> Expanded:
    """Put the variants that studies make of them behind the methods that were named.

    Args:
        named: the methods.
        studies: what is made of each.
        depth: number of blocks of the model.
        manager: the plugins.
        checkpoint: as in `Variant.method`.

    Raises:
        ConfigurationError: a study concerns none of the methods, or a setting in it is wrong.
        UnknownNameError: a method has a refiner that nobody registered.
    """
    variants: dict[str, Variant] = {}
    studied: dict[str, dict[str, dict[str, Any]]] = {study.asked: {} for study in studies}
    for base in named:
        variants[base.label] = base
        method = base.method(manager, checkpoint)
        for study in studies:
            places = {}
            for step in study.steps(method, depth, manager.registries.refiners):
                label = f"{base.label} {step.name}".rstrip()
                places[label] = step.value
                # Two studies may have a variant in common, which is then one row.
                variant = base.changed(label, step.overrides) if step.name else base
                variant.method(manager, checkpoint)
                _add(variants, variant, taken=variants.get(label, variant) != variant)
            if places:
                studied[study.asked][base.label] = places
    for asked, found in studied.items():
        if not found:
            raise ConfigurationError(
                f"{asked}: none of the methods has what it varies; their refiners are: "
                + "; ".join(f"{each.label}: {_refiners(each.method(manager, checkpoint))}" for each in named)
            )
    return Expanded(tuple(variants.values()), studied)


def rows_of_a_table(
    named: Iterable[Variant],
    studied: Mapping[str, Mapping[str, Mapping[str, Any]]],
    baselines: Iterable[Variant],
) -> list[str]:
    """Labels in the order of a table: each method with its variants behind it, then the baselines.

    Args:
        named: the methods.
        studied: from `expand`.
        baselines: from `baseline_methods`.
    """

    def rows() -> Iterator[str]:
        for base in named:
            yield base.label
            for found in studied.values():
                yield from found.get(base.label, ())
        yield from (each.label for each in baselines)

    return list(dict.fromkeys(rows()))


def _add(variants: dict[str, Variant], variant: Variant, *, taken: bool) -> None:
    if taken or variant.label == CEILING:
        raise ConfigurationError(
            f"two methods are called {variant.label!r}: every row of the table needs a name of its own"
        )
    variants[variant.label] = variant


def _refiners(method: Method) -> str:
    return ", ".join(name for name, parameters in method.refiners.items() if parameters is not None) or "none"
