"""The adapter around the model that is trained."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import lightning as L

from dcam_core.adapter import Adapter
from dcam_core.errors import ConfigurationError

__all__ = ["trained_adapter"]


def trained_adapter(
    model: Adapter | Callable[[L.LightningModule], Adapter] | str, module: L.LightningModule
) -> Adapter:
    """Find it.

    Args:
        model: the adapter; or a function that gives it for the module; or the name of the module's attribute that
            holds it, dots allowed.
        module: what is trained.

    Raises:
        ConfigurationError: that is no adapter, or one around another model than the one that is trained.
    """
    if isinstance(model, str):
        try:
            found = attrgetter(model)(module)
        except AttributeError as error:
            raise ConfigurationError(
                f"{type(module).__name__} has no attribute {model!r}: `model` must name the one that holds the "
                "adapter, or be the adapter, or a function that gives it"
            ) from error
    else:
        found = model if isinstance(model, Adapter) else model(module)
    if not isinstance(found, Adapter):
        raise ConfigurationError(
            f"`model` gives a {type(found).__name__} for {type(module).__name__}: an adapter is needed; "
            "`dcam_core.wrap_model` puts one around a model"
        )
    trained = {id(parameter) for parameter in module.parameters()}
    if any(id(parameter) not in trained for parameter in found.model.parameters()):
        raise ConfigurationError(
            f"the adapter's model has parameters that {type(module).__name__} does not have: another model would be "
            "explained than is trained; make it a submodule, and put the adapter around that same object"
        )
    return found
