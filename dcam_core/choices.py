"""What a user chose for one engine: a value for one of the method's settings, or a function in place of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dcam_core.errors import ConfigurationError
from dcam_core.method import Method
from dcam_core.plugins.relay import qualified_name

__all__ = ["Choices"]

_VALUES: Mapping[str, tuple[type, ...]] = {
    "probe_layer": (int, float, str, list, tuple),
    "mask_step": (int, str),
    "gradient_target": (str, Mapping),
}


@dataclass(frozen=True)
class Choices:
    """The choices of one engine.

    Attributes:
        values: setting -> value; stronger than the method and its overrides.
        functions: setting -> function that answers the setting's hook; asked before everybody else. Where it
            answers None, the method's setting counts.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, **choices: Any) -> Choices:
        """Sort what was given for each of `CHOICES` into values and functions; None is no choice.

        Raises:
            ConfigurationError: something is neither a value of its setting nor a function.
        """
        values: dict[str, Any] = {}
        functions: dict[str, Callable[..., Any]] = {}
        for setting, choice in choices.items():
            if choice is None:
                continue
            if isinstance(choice, _VALUES[setting]) and not isinstance(choice, bool):
                values[setting] = _checked(setting, choice)
            # Modules and classes can be called too, but never with a hook's arguments.
            elif callable(choice) and not isinstance(choice, type | nn.Module):
                functions[setting] = choice
            else:
                kinds = " or ".join(kind.__name__.lower() for kind in _VALUES[setting])
                raise ConfigurationError(
                    f"{setting} is {_shown(choice)}: give a value ({kinds}), or a function that takes arguments of "
                    f"the hook dcam_{setting}"
                )
        return cls(values, functions)

    @property
    def by_hook(self) -> dict[str, Callable[..., Any]]:
        """Name of a hook -> the function that answers it."""
        return {f"dcam_{setting}": function for setting, function in self.functions.items()}

    def applied_to(self, method: Method) -> Method:
        """The method with the chosen values."""
        return dataclasses.replace(method, **self.values)

    def recorded_in(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as plain data, with the names of functions where they were given in place of values."""
        names: dict[str, Any] = {
            setting: qualified_name(function) for setting, function in self.functions.items()
        }
        names.pop("probe_layer", None)  # the layer that came of it stands there already
        if "gradient_target" in names:
            names["gradient_target"] = {**settings["gradient_target"], "name": names["gradient_target"]}
        return {**settings, **names}


def _checked(setting: str, value: Any) -> Any:
    """A value in the form in which a method holds it."""
    if setting != "gradient_target":
        return value
    named = {"name": value} if isinstance(value, str) else dict(value)
    if not isinstance(named.get("name"), str):
        raise ConfigurationError(f"gradient_target {value!r} has no 'name': give {{'name': ..., ...}}")
    return named


def _shown(choice: object) -> str:
    if isinstance(choice, nn.Module):
        return f"a module ({type(choice).__name__})"
    return f"the class {choice.__qualname__}" if isinstance(choice, type) else repr(choice)
