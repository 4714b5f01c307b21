"""Load a model by name, folder or hub id, or put an adapter around one that is loaded already."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import nn

from dcam_core.adapter import Adapter
from dcam_core.errors import CheckpointError, ConfigurationError, PluginError, UnknownNameError
from dcam_core.placement import Placement
from dcam_core.plugins import default_manager
from dcam_core.plugins.failure import indefinite
from dcam_core.plugins.info import missing_because

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dcam_core.plugins import PluginManager
    from dcam_core.plugins.registry import AdapterRegistry

__all__ = ["MisfitError", "checkpoint_folder", "load_model", "outline_model", "read_config", "wrap_model"]

# Weights, configuration and tokenizer, never code; pickled weights only where there are no others.
_HUB_TEXTS = ["*.json", "*.jinja", "*.txt", "*.model", "*.yaml"]
_HUB_FILES = [*_HUB_TEXTS, "*.safetensors"]
_HUB_PICKLES = ["pytorch_model*.bin"]


class MisfitError(CheckpointError):
    """The tensors of a checkpoint are not those of the model that its adapter builds.

    Args:
        message: what does not fit.
        names: names of all tensors of the checkpoint, by which another family may be told.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(message)


def load_model(
    name: str | Path,
    *,
    adapter: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    quantisation: str | None = None,
    revision: str | None = None,
    manager: PluginManager | None = None,
    **options: Any,
) -> Adapter:
    """Load a model.

    Args:
        name: the name of an embedded model ("tiny-llada-v"), a checkpoint folder, or a hub id. A name wins
            over a folder of that name; write "./name" for the folder.
        adapter: family of the model; None: recognised from its config.json.
        device: "cpu", "cuda", "cuda:1", "mps"; None: "cpu", or what `device_map` says.
        dtype: a name of `dcam_core.placement.DTYPES`, or a torch dtype; None: as stored, but float32 on the
            CPU, where half precision is slow and inexact.
        device_map: how the language model's blocks are spread over devices (needs accelerate): "auto",
            "balanced", "sequential", or module path -> device or "disk"; see `dcam_core.placement.Placement`.
        max_memory: bytes per device for a device map by name, as accelerate takes it.
        quantisation: "8bit" or "4bit" for the linear layers of the blocks (needs bitsandbytes).
        revision: branch, tag or commit of a hub id.
        manager: the plugins to use; None: all that are installed.
        options: further options of the family's own; see the `load` of its adapter.

    Returns:
        The model behind its adapter, in evaluation mode.

    Raises:
        UnknownNameError: no such name, folder or adapter.
        CheckpointError: the folder is not a complete checkpoint of a known family.
        ConfigurationError: no such device, dtype, placement or option.
    """
    placement = Placement.of(
        device=device, dtype=dtype, device_map=device_map, max_memory=max_memory, quantisation=quantisation
    )
    manager = manager or default_manager()
    return _made(name, placement, adapter, revision, manager, options, weights=True)


def outline_model(
    name: str | Path,
    *,
    adapter: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    quantisation: str | None = None,
    revision: str | None = None,
    manager: PluginManager | None = None,
    **options: Any,
) -> Adapter:
    """A model without its weights, as far as its family can be built so; see `Adapter.outline`.

    The arguments are those of `load_model`. Of a hub id, configuration and tokenizer alone are downloaded.

    Returns:
        The model behind its adapter; its parameters are on the meta device, or loaded where that cannot be had.

    Raises:
        UnknownNameError: as `load_model`.
        CheckpointError: as `load_model`.
        ConfigurationError: as `load_model`.
    """
    placement = Placement.of(
        device=device, dtype=dtype, device_map=device_map, max_memory=max_memory, quantisation=quantisation
    )
    # What a quantisation and a device map need of this machine is not needed yet.
    plain = Placement(placement.device, placement.dtype)
    manager = manager or default_manager()
    return _made(name, plain, adapter, revision, manager, options, weights=False)


def _made(
    name: str | Path,
    placement: Placement,
    adapter: str | None,
    revision: str | None,
    manager: PluginManager,
    options: Mapping[str, Any],
    *,
    weights: bool,
) -> Adapter:
    """A model that its adapter makes of a checkpoint folder; what goes wrong is said with the folder."""
    folder, family = _locate(str(name), revision, manager, weights=weights)
    config = read_config(folder)
    family = adapter or family
    registry = manager.registries.adapters
    try:
        entry = registry.entry(family) if family else registry.recognise(config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    chosen = entry.load()
    _check_options(chosen, options)
    make: Callable[..., object] = chosen.outline
    if weights or "outline" not in _defined_below(chosen, Adapter):
        make = chosen.load
        # A family that has to load the model to tell what it is needs the weights, too.
        folder = folder if weights else _locate(str(name), revision, manager, weights=True)[0]
    try:
        model = make(folder, placement, **options)
    except CheckpointError as error:
        found = str(error) if str(folder) in str(error) else f"{folder}: {error}"
        hints = _hints(error, entry.name, config, registry)
        raise CheckpointError("; ".join([found, *hints])) from error
    if not isinstance(model, Adapter):
        raise PluginError(
            entry.plugin,
            f"{entry.label} gave {indefinite(type(model).__name__)} from `{make.__name__}`: expected an instance of "
            f"{chosen.__qualname__}",
        )
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


def checkpoint_folder(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a checkpoint: the one of that name, or a snapshot of a hub repository.

    Args:
        name: a folder, or a hub id "owner/name".
        revision: branch, tag or commit of a hub id.
        weights: False: of a hub repository, everything else is enough.

    Raises:
        FileNotFoundError: it is a path, or no hub id, and there is no such folder.
        CheckpointError: it is a file, or cannot be had from the hub.
        ConfigurationError: a revision of a folder is asked for.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigurationError(
                f"revision {revision!r} is asked for, but {name} is a folder: leave it out"
            )
        return folder
    if folder.exists():
        raise CheckpointError(
            f"model {name} is a file: give the folder that holds config.json and the weights"
        )
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(f"a folder {name} does not exist")
    try:
        wanted = _HUB_FILES if weights else _HUB_TEXTS
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if weights and not any(folder.rglob("*.safetensors")):
            patterns = [*_HUB_FILES, *_HUB_PICKLES]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise FileNotFoundError(f"{name} is no hub id") from error
    except Exception as error:
        line = " ".join(str(error).split())
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"model {name!r}{at} is no folder, and cannot be had from the hub: {type(error).__name__}: {line}; "
            "check the spelling and the network, or download it and give the folder"
        ) from error
    return folder


def _locate(
    name: str, revision: str | None, manager: PluginManager, *, weights: bool
) -> tuple[Path, str | None]:
    """Folder of a model and, for an embedded one, its family."""
    models = manager.registries.models
    if name in models:
        if revision is not None:
            raise ConfigurationError(
                f"revision {revision!r} is asked for, but {name} is embedded: leave it out"
            )
        return Path(models.get(name)), models.entry(name).metadata.get("adapter")
    try:
        return checkpoint_folder(name, revision, weights=weights), None
    except FileNotFoundError as error:
        hint = (
            "It is no folder and no hub id either."
            if error.__cause__
            else "A folder of that name does not exist either."
        )
        missing, cause = missing_because(manager.plugins, name)
        raise UnknownNameError("model", name, models.names, f"{hint} {missing}".rstrip()) from cause or error


def _defined_below(chosen: type, base: type) -> set[str]:
    """Names that a class or its bases below one of them define."""
    above = chosen.__mro__[: chosen.__mro__.index(base)]
    return {name for each in above for name in vars(each)}


def _check_options(chosen: type[Adapter], options: Mapping[str, Any]) -> None:
    """Whether a family knows the options that are its own."""
    known = [
        name
        for name, parameter in inspect.signature(chosen.load).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    if unknown := [name for name in options if name not in known]:
        raise ConfigurationError(
            f"adapter {chosen.family!r} has no option {', '.join(map(repr, unknown))}: there are "
            f"{', '.join(known) or 'none'}"
        )


def _hints(
    error: CheckpointError, chosen: str, config: Mapping[str, Any], registry: AdapterRegistry
) -> list[str]:
    """What speaks for another family than the one whose adapter failed to load a checkpoint."""
    hints = []
    claims = [entry.name for entry in registry.claims(config)]
    if claims and chosen not in claims:
        hints.append(
            f"adapter {chosen!r} was asked for, but config.json is one of {' or '.join(claims)}: "
            "leave the adapter out, or name that one"
        )
    if isinstance(error, MisfitError):
        alike = [entry.name for entry in registry.resembling(error.names)]
        if alike and chosen not in alike:
            hints.append(f"the tensors look like those of {' or '.join(alike)}")
    return hints
