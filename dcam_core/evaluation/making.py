"""Parameters of datasets and metrics as users write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from dcam_core.errors import ConfigurationError

__all__ = ["read_parameters"]


def read_parameters(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` strings as a mapping; values are read as YAML: 3 is a number.

    Raises:
        ConfigurationError: one is something else.
    """
    for setting in settings:
        if not setting.partition("=")[0].strip() or "=" not in setting:
            raise ConfigurationError(f"{setting!r} is not KEY=VALUE")
    try:
        parameters = OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))
    except Exception as error:  # OmegaConf's errors and those of the YAML parser below it have no common base
        line = " ".join(str(error).split())
        raise ConfigurationError(f"{' '.join(settings)} cannot be read: {line}") from error
    return {str(key): value for key, value in parameters.items()} if isinstance(parameters, dict) else {}
