"""Load a model by name, folder or hub id, or put an adapter around one that is loaded already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import nn

from dcam_core.adapter import Adapter
from dcam_core.errors import CheckpointError, ConfigurationError, UnknownNameError
from dcam_core.plugins import default_manager

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dcam_core.plugins import PluginManager

__all__ = ["DTYPES", "load_model", "read_config", "wrap_model"]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
"""Names of the dtypes in which a model can be loaded."""

# Weights, configuration and tokenizer: never code, never pickles.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.yaml"]


def load_model(
    name: str | Path,
    *,
    adapter: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    manager: PluginManager | None = None,
) -> Adapter:
    """Load a model.

    Args:
        name: the name of an embedded model ("tiny-llada-v"), a checkpoint folder, or a hub id. A name wins
            over a folder of that name; write "./name" for the folder.
        adapter: family of the model; None: recognised from its config.json.
        device: "cpu", "cuda", "cuda:1", "mps".
        dtype: a name of `DTYPES`, or a torch dtype; None: as stored, but float32 on the CPU, where half
            precision is slow and inexact.
        revision: branch, tag or commit of a hub id.
        manager: the plugins to use; None: all that are installed.

    Returns:
        The model behind its adapter, in evaluation mode.

    Raises:
        UnknownNameError: no such name, folder or adapter.
        CheckpointError: the folder is not a complete checkpoint of a known family.
        ConfigurationError: no such device or dtype.
    """
    manager = manager or default_manager()
    target_device, target_dtype = _device(device), _dtype(dtype)
    if target_dtype is None and target_device.type == "cpu":
        target_dtype = torch.float32
    folder, family = _locate(str(name), revision, manager)
    config = read_config(folder)
    family = adapter or family
    registry = manager.registries.adapters
    try:
        chosen = registry.get(family) if family else registry.recognise(config).load()
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model = chosen.load(folder, device=target_device, dtype=target_dtype)
    model.name, model.folder = str(name), folder
    model.model.eval()
    return model


def wrap_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_processor: Any = None,
    *,
    adapter: str,
    config: Mapping[str, Any] | None = None,
    manager: PluginManager | None = None,
) -> Adapter:
    """Put an adapter around a model object that the user holds.

    Args:
        model: a module with the family's module tree and forward signature; it is not copied or changed.
        tokenizer: its tokenizer.
        image_processor: replaces the family's picture preparation where it is given.
        adapter: family of the model.
        config: content of config.json; None: `model.config`.
        manager: the plugins to use; None: all that are installed.
    """
    manager = manager or default_manager()
    wrapped = manager.registries.adapters.get(adapter).wrap(model, tokenizer, image_processor, config=config)
    wrapped.name = type(model).__name__
    return wrapped


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        CheckpointError: it is missing, or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no config.json; give the folder that holds "
            "config.json and the safetensors files"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return config


def _locate(name: str, revision: str | None, manager: PluginManager) -> tuple[Path, str | None]:
    """Folder of a model and, for an embedded one, its family."""
    models = manager.registries.models
    if name in models:
        return Path(models.get(name)), models.entry(name).metadata.get("adapter")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists():
        raise CheckpointError(
            f"model {name} is a file: give the folder that holds config.json and the weights"
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path:
        raise UnknownNameError("model", name, models.names, "A folder of that name does not exist either.")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES)), None
    except HFValidationError as error:
        raise UnknownNameError(
            "model", name, models.names, "It is no folder and no hub id either."
        ) from error
    except Exception as error:
        line = " ".join(str(error).split())
        raise CheckpointError(
            f"model {name!r} is neither an embedded model ({', '.join(models.names)}) nor a folder, and cannot "
            f"be had from the hub: {type(error).__name__}: {line}"
        ) from error


def _device(device: str | torch.device) -> torch.device:
    """A device that is there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).splitlines()[0]
        raise ConfigurationError(f"device {str(device)!r} cannot be used: {line}; use 'cpu'") from error
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name."""
    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
