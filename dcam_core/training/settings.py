"""Settings that can be told to be wrong before there is a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from dcam_core.errors import ConfigurationError
from dcam_core.explainer import Explainer
from dcam_core.training.notebook import tag

__all__ = ["checked_name", "checked_options", "whole_number"]


def whole_number(name: str, value: int | None, least: int) -> int | None:
    """The value of a setting, if it is a whole number that is large enough, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return value
    raise ConfigurationError(f"{name} is {value!r}: give a whole number of at least {least}")


def checked_name(name: str) -> str:
    """The first part of all tags, if it is a part of a tag.

    Raises:
        ConfigurationError: it has letters that tags cannot have, or none.
    """
    if not name or tag(name) != name:
        raise ConfigurationError(
            f"name is {name!r}: it begins every tag, so give letters, digits, '-', '_' and '.' alone"
        )
    return name


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Explainer`, if it has them.

    Raises:
        ConfigurationError: one is unknown.
    """
    known = list(inspect.signature(Explainer).parameters)[1:]  # the first is the model
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(
                f"{name!r} is an argument neither of DiffusionCAM nor of Explainer, which has "
                f"{', '.join(known)}{guess}"
            )
    return dict(options)
