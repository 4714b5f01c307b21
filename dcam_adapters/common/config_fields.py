"""Reading `config.json`: what the configurations of all families have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch

from dcam_core.errors import CheckpointError
from dcam_core.placement import DTYPES

__all__ = ["config_values", "refuse", "require_fields", "stated_dtype"]


def config_values(source: Any) -> Mapping[str, Any]:
    """The content of a configuration of any make: a dictionary, or an object such as transformers'.

    Args:
        source: the content of config.json, or a model's `.config`; None if it has none.

    Raises:
        CheckpointError: there is none.
    """
    if source is None:
        raise CheckpointError(
            "the model to wrap has no .config: give the content of its config.json as config="
        )
    if isinstance(source, Mapping):
        return source
    to_dict = getattr(source, "to_dict", None)
    values: Mapping[str, Any] = to_dict() if callable(to_dict) else vars(source)
    return values


def stated_dtype(values: Mapping[str, Any]) -> torch.dtype:
    """The dtype of the weights as config.json says it, under its older or newer name; float32 if it does not.

    Args:
        values: the content of config.json.
    """
    stated = values.get("dtype") or values.get("torch_dtype")
    return DTYPES.get(str(stated).removeprefix("torch."), torch.float32)


def require_fields(values: Mapping[str, Any], names: Iterable[str], *, family: str) -> None:
    """Checks that the fields are there without which a checkpoint's shapes are unknown.

    Raises:
        CheckpointError: fields are missing or null; all of them are named.
    """
    if missing := [name for name in names if values.get(name) is None]:
        raise CheckpointError(
            f"config.json of a {family} checkpoint lacks {', '.join(missing)}: "
            "the model's shape is unknown; take the config.json that was published with the weights"
        )


def refuse(name: str, value: Any, offered: str, *, family: str) -> NoReturn:
    """Refuses a field that asks for something that the family's adapter does not do.

    Args:
        name: the field.
        value: what it says.
        offered: what is supported.
        family: name of the family.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"config.json has {name} = {value!r}, {family}'s adapter offers {offered}: "
        "the checkpoint is of another family or a variant that is not supported"
    )
