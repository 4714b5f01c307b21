"""Methods are data: which attribution, probed where and when, refined how.

A method comes from a preset (a small YAML file that a plugin registered) or from the user's own file. On
top of it lie, each stronger than the last: what was measured to suit the checkpoint (`explain.yaml` beside
its weights), and `key=value` settings.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dcam_core.errors import ConfigurationError
from dcam_core.plugins.entry import normalise

if TYPE_CHECKING:
    from dcam_core.adapter import Layer
    from dcam_core.plugins.registry import Registry

__all__ = ["CHECKPOINT_DEFAULTS", "DEFAULT_METHOD", "Method", "find_method", "resolve_method"]

DEFAULT_METHOD = "dcam"
"""The method of everybody who names none; part of the public contract."""

CHECKPOINT_DEFAULTS = "explain.yaml"
"""File beside a checkpoint's weights: preset name -> settings that were measured to suit this checkpoint."""


@dataclass(frozen=True)
class Method:
    """A complete method.

    Attributes:
        name: name of the preset, or stem of the file.
        description: one line.
        attribution: `name` of an attribution, and its parameters.
        probe_layer: block number, fraction of depth, or module path; or a list of them, whose maps are averaged.
            None: the hook decides.
        mask_step: name of a mask-step policy, or a step number.
        invalid_steps: what to do where `mask_step` names a step that is not structurally valid: "refuse" it, or
            "warn": replay its state in full, and say in the explanation that the run did not.
        gradient_target: `name` of a gradient target, and its parameters.
        views: names of the views that contribute to a map; None: all.
        refiners: name of a refiner -> its parameters, in the order in which they are applied; None instead
            of parameters leaves the refiner out.
        sampler: settings of the denoising run that differ from the model's own.
    """

    name: str
    description: str = ""
    attribution: Mapping[str, Any] = field(default_factory=dict)
    probe_layer: Layer | Sequence[Layer] | None = None
    mask_step: int | str = "commit"
    invalid_steps: str = "refuse"
    gradient_target: Mapping[str, Any] = field(default_factory=lambda: {"name": "logit"})
    views: tuple[str, ...] | None = None
    refiners: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as saved with every explanation."""
        return dataclasses.asdict(self)


INVALID_STEPS = ("refuse", "warn")

_KEYS = tuple(f.name for f in dataclasses.fields(Method) if f.name != "name")
_NAMED = ("attribution", "gradient_target")  # a `name`, and the parameters of what is called so
_MAPPINGS = (*_NAMED, "refiners", "sampler")


def find_method(method: str | Path, registry: Registry[Path]) -> tuple[str, Path]:
    """Name and file of a method, whichever way the user names it.

    Args:
        method: a preset, in any spelling of its name ("Diffusion_CAM"), or the path of a YAML file.
        registry: the presets.

    Returns:
        The name as the preset is registered, or the stem of the file; and the file, which is not read yet.

    Raises:
        UnknownNameError: there is no such preset.
        PluginError: the plugin that registered it gives no file.
    """
    if isinstance(method, Path) or method.endswith((".yaml", ".yml")):
        return Path(method).stem, Path(method)
    entry = registry.entry(method)
    return entry.name, Path(entry.load())


def resolve_method(
    name: str,
    preset: Path,
    *,
    checkpoint: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Method:
    """Merge preset < checkpoint's measured defaults < overrides.

    What names another attribution or gradient target starts with that one's own defaults: the parameters of the
    first are not its.

    Args:
        name: the preset's name.
        preset: its YAML file.
        checkpoint: folder of the model; its `explain.yaml`, if any, is read.
        overrides: "key=value" strings with dotted keys, or a nested mapping.

    Raises:
        ConfigurationError: a file is missing or is not YAML, or a key is unknown; the key is named.
    """
    layers = [_read(preset)]
    if checkpoint is not None and (checkpoint / CHECKPOINT_DEFAULTS).is_file():
        measured = _read(checkpoint / CHECKPOINT_DEFAULTS)
        if name in measured:
            layers.append(OmegaConf.create(measured[name]))
    layers.append(_overrides(overrides))
    for layer in layers:
        _check_keys(layer)
    merged = OmegaConf.to_container(_merged(layers), resolve=True)
    if not isinstance(merged, dict):
        raise ConfigurationError(f"method {name!r} is not a mapping of settings")
    for key in _MAPPINGS:
        if not isinstance(merged.get(key, {}), dict):
            raise ConfigurationError(f"{key} is {merged[key]!r}: write {key}.NAME=VALUE")
    for key in _NAMED:
        if key in merged and "name" not in merged[key]:
            raise ConfigurationError(f"method {name!r}: {key} has no 'name'; write {key}: {{name: ...}}")
    if "attribution" not in merged:
        raise ConfigurationError(f"method {name!r} names no attribution; write attribution: {{name: ...}}")
    for refiner, parameters in merged.get("refiners", {}).items():
        if parameters is not None and not isinstance(parameters, dict):
            raise ConfigurationError(
                f"refiners.{refiner} is {parameters!r}: give its parameters as refiners.{refiner}.NAME=VALUE, "
                f"or refiners.{refiner}=null to leave it out"
            )
    if merged.get("views") is not None:
        views = merged["views"]
        merged["views"] = (views,) if isinstance(views, str) else tuple(views)
    if merged.get("invalid_steps", "refuse") not in INVALID_STEPS:
        raise ConfigurationError(
            f"invalid_steps is {merged['invalid_steps']!r}: it is one of {', '.join(map(repr, INVALID_STEPS))}"
        )
    return Method(name=name, **{str(key): value for key, value in merged.items()})


def names_setting(overrides: Sequence[str] | Mapping[str, Any], setting: str) -> bool:
    """Whether overrides, in either form, say something about a setting of the first level."""
    names = overrides if isinstance(overrides, Mapping) else [item.split("=", 1)[0] for item in overrides]
    return setting in [name.strip() for name in names]


def _merged(layers: Sequence[DictConfig]) -> DictConfig:
    """The layers, each laid over those before it."""
    merged = OmegaConf.create()
    for layer in layers:
        for key in _NAMED:
            below, above = merged.get(key), layer.get(key)
            if not isinstance(below, DictConfig) or not isinstance(above, DictConfig):
                continue
            if "name" in above and normalise(str(above.name)) != normalise(str(below.get("name"))):
                merged[key] = {}
        merged.merge_with(layer)
    return merged


def _read(path: Path) -> DictConfig:
    """One YAML file as a configuration."""
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigurationError(f"method file {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"method file {path} cannot be read: {error}") from error
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigurationError(f"method file {path} is not valid YAML: {line}") from error
    if not isinstance(config, DictConfig):
        raise ConfigurationError(f"method file {path} is not a mapping of settings")
    return config


def _overrides(overrides: Sequence[str] | Mapping[str, Any]) -> DictConfig:
    """`key=value` strings, or a mapping, as a configuration."""
    if isinstance(overrides, Mapping):
        return OmegaConf.create(dict(overrides))
    for item in overrides:
        if "=" not in item or not item.split("=", 1)[0].strip():
            raise ConfigurationError(f"setting {item!r} is not key=value, e.g. mask_step=infill")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # OmegaConf's errors and those of the YAML parser below it have no common base
        line = " ".join(str(error).split())
        raise ConfigurationError(f"settings {' '.join(overrides)} cannot be read: {line}") from error


def _check_keys(config: DictConfig) -> None:
    """Refuse a setting that no method has."""
    for key in config:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(f"unknown setting {str(key)!r}: there are {', '.join(_KEYS)}.{guess}")
