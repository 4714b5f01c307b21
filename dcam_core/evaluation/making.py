"""Parameters of datasets and metrics as users write them, and the dataset that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from dcam_core.dataset import ExplanationDataset
from dcam_core.errors import ConfigurationError
from dcam_core.plugins.entry import Entry
from dcam_core.plugins.making import make, missing_parameters

__all__ = ["make_dataset", "read_parameters"]


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


def make_dataset(entry: Entry[type[ExplanationDataset]], parameters: Mapping[str, Any]) -> ExplanationDataset:
    """A dataset with its parameters.

    Raises:
        ConfigurationError: it does not take these parameters, or is read from a folder and none is given.
        PluginError: it fails.
    """
    if "root" in missing_parameters(entry.load(), parameters):
        raise ConfigurationError(
            f"dataset {entry.name!r} is read from a folder, and none is given: write it as --dataset "
            f"{entry.name}:FOLDER, in Python as dataset_parameters={{'root': FOLDER}}"
        )
    return make(entry, parameters)
