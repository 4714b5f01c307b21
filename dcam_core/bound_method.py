"""A method on a model: its settings resolved, its plugins made, and what it asks of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dcam_core.adapter import Adapter, Layer
from dcam_core.attribution import ModelAttribution
from dcam_core.choices import Choices
from dcam_core.errors import ConfigurationError
from dcam_core.method import Method, find_method, names_setting, resolve_method
from dcam_core.plugins.making import make
from dcam_core.probing.answers import layer_paths, layer_remarks
from dcam_core.probing.defaults import CORE_DEFAULTS, NamedProbeLayer
from dcam_core.probing.readings import plan_readings
from dcam_core.results.record import decided_by

if TYPE_CHECKING:
    from dcam_core.attribution import Attribution
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.plugins import PluginManager
    from dcam_core.plugins.registry import Registry
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.probing.readings import TargetReading
    from dcam_core.probing.targets import Target
    from dcam_core.refiner import Refiner

__all__ = ["BoundMethod"]

T = TypeVar("T")


class BoundMethod:
    """A method bound to a model.

    The arguments are those of `dcam_core.explainer.Explainer`, which says what they mean.

    Attributes:
        model: the model.
        method: the merged settings.
        hooks: the plugins and functions that are asked on the way.
        attribution: with its label for messages.
        refiners: the same, in the order in which they are asked.
        sampler: how the model is to answer.
        layers: paths of the probed modules.

    Raises:
        UnknownNameError: no such method, attribution or refiner.
        ConfigurationError: a setting is unknown or wrong.
        PluginError: a plugin or function does not fit its hook, or its answer is of no use.
    """

    def __init__(
        self,
        model: Adapter,
        method: str | Path,
        manager: PluginManager,
        *,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        plugins: Iterable[object] = (),
        probe_layer: Layer | Sequence[Layer] | Callable[..., Layer | Sequence[Layer] | None] | None = None,
        mask_step: str | int | Callable[..., Sequence[ProbeState] | None] | None = None,
        gradient_target: str | Mapping[str, Any] | Callable[..., GradientTarget | None] | None = None,
    ) -> None:
        self.model = model
        self._choices = Choices.of(
            probe_layer=probe_layer, mask_step=mask_step, gradient_target=gradient_target
        )
        name, path = find_method(method, manager.registries.methods)
        self.method = self._choices.applied_to(
            resolve_method(name, path, checkpoint=model.folder, overrides=overrides)
        )
        self._mask_step_chosen = mask_step is not None or names_setting(overrides, "mask_step")
        named = self.method.probe_layer
        self.hooks = manager.engine_hooks(
            model.family,
            extra=plugins,
            functions=self._choices.by_hook,
            settings=() if named is None else (NamedProbeLayer(named),),
            defaults=CORE_DEFAULTS,
        )
        registries = manager.registries
        self.attribution: tuple[str, Attribution | ModelAttribution] = _labelled(
            registries.attributions, *_named(self.method.attribution)
        )
        self.refiners: list[tuple[str, Refiner]] = [
            _labelled(registries.refiners, name, parameters)
            for name, parameters in self.method.refiners.items()
            if parameters is not None
        ]
        self.sampler = model.default_sampler.merged(self.method.sampler)
        decision = self.hooks.decide("dcam_probe_layer", adapter=model, method=self.method.as_dict())
        if decision is None:
            raise ConfigurationError("nobody names a layer to probe: set probe_layer")
        self._layer_decision = decision
        self.layers = layer_paths(decision, model)

    @property
    def layer(self) -> str | list[str]:
        """The probed module's path as a method would name it; a list of several."""
        return self.layers[0] if len(self.layers) == 1 else list(self.layers)

    # -- on a run --------------------------------------------------------------------------------------------

    def for_run(self, trajectory: Trajectory) -> Method:
        """The method, or how it is done where there is no step that could be replayed: by infilling.

        A mask step that the user chose stands: what needs a step then says that there is none.
        """
        if trajectory.steps or self._mask_step_chosen:
            return self.method
        return dataclasses.replace(self.method, mask_step="infill")

    def readings(self, targets: Sequence[Target], trajectory: Trajectory) -> list[TargetReading]:
        """What must be read to explain some words of a run.

        Raises:
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        return plan_readings(self.hooks, self.for_run(trajectory), self.model, targets, trajectory)

    def decided_by(self, readings: Sequence[TargetReading]) -> dict[str, tuple[str, ...]]:
        """Setting -> who decided it for these readings, where it was not the method."""
        decisions = [self._layer_decision]
        decisions += [decision for item in readings for decision in (item.states_from, item.score_from)]
        return decided_by(decisions)

    def raw_settings(self, trajectory: Trajectory) -> dict[str, Any]:
        """See `Explainer.raw_settings`."""
        settings = self.for_run(trajectory).as_dict()
        for other in ("name", "description", "refiners", "sampler"):
            del settings[other]
        return {**settings, "probe_layer": self.layers}

    def replay_settings(self, trajectory: Trajectory) -> dict[str, Any] | None:
        """See `Explainer.replay_settings`."""
        if isinstance(self.attribution[1], ModelAttribution):
            return None
        settings = self.raw_settings(trajectory)
        del settings["attribution"]
        return settings

    def recorded(self, trajectory: Trajectory, decided_by: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The merged configuration of a run, with what was left open filled in, as plain data."""
        settings = {
            **self.for_run(trajectory).as_dict(),
            "probe_layer": self.layer,
            "sampler": trajectory.settings.as_dict(),
        }
        if remarks := layer_remarks(self._layer_decision, self.model):
            settings["probe_layer_remarks"] = list(remarks)
        if decided_by:
            settings["decided_by"] = {setting: list(origins) for setting, origins in decided_by.items()}
        return self._choices.recorded_in(settings)


def _named(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A `{name: ..., parameters...}` mapping taken apart."""
    return str(settings["name"]), {key: value for key, value in settings.items() if key != "name"}


def _labelled(registry: Registry[type[T]], name: str, parameters: Mapping[str, Any]) -> tuple[str, T]:
    """An attribution or refiner with the method's parameters, and its label for messages."""
    entry = registry.entry(name)
    return entry.label, make(entry, parameters)
