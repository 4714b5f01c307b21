"""A model that is loaded when somebody needs it, and once however many evaluations share it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcam_core.adapter import Adapter
from dcam_core.errors import ConfigurationError
from dcam_core.models import load_model

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager

__all__ = ["ModelSource"]


@dataclass(frozen=True)
class ModelSource:
    """What `load_model` takes, not loaded yet.

    Attributes:
        model: a loaded model, or what `dcam_core.load_model` takes.
        loading: further keywords for `load_model`.
        manager: the plugins; None: all that are installed.
    """

    model: Adapter | str | Path
    loading: Mapping[str, Any] = field(default_factory=dict)
    manager: PluginManager | None = None

    @property
    def name(self) -> str:
        """What it is called in tables, known without loading it."""
        return self.model.name if isinstance(self.model, Adapter) else str(self.model)

    @functools.cached_property
    def adapter(self) -> Adapter:
        """The model; loaded when this is first asked for.

        Raises:
            UnknownNameError: there is no such model.
            CheckpointError: its files are not a model's.
        """
        if isinstance(self.model, Adapter):
            return self.model
        return load_model(self.model, manager=self.manager, **self.loading)

    def on(self, device: torch.device) -> ModelSource:
        """The same model, to be loaded on another device.

        Raises:
            ConfigurationError: it is loaded already, and elsewhere.
        """
        if isinstance(self.model, Adapter):
            if self.model.device != device:
                raise ConfigurationError(
                    f"the model is loaded on {self.model.device}, and this process is to use {device}: give its name "
                    "or folder, so that every process loads it on its own device"
                )
            return self
        if device.type == "cpu":
            return self
        return ModelSource(self.model, {**self.loading, "device": str(device)}, self.manager)
