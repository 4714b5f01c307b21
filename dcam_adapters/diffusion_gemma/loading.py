"""Loading a checkpoint through transformers, with every tensor that does not fit named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.utils import GENERATION_CONFIG_NAME

from dcam_adapters.common.checkpoint import weight_files
from dcam_adapters.common.checkpoint.misfit import check_fit
from dcam_adapters.common.checkpoint.reading import read_shapes
from dcam_core.errors import CheckpointError, ConfigurationError
from dcam_core.placement import DISK, Placement

__all__ = ["load_network", "outline_network"]


def load_network(folder: Path, placement: Placement) -> nn.Module:
    """The network with its weights, in evaluation mode.

    transformers knows which of the encoder's tensors are those of the decoder and are saved once; no code of the
    checkpoint is run.

    Args:
        folder: config.json, generation_config.json and weights, as published.
        placement: where the weights go. A device map is transformers' own: it needs accelerate.

    Raises:
        CheckpointError: a file or tensor is missing, unexpected or mis-shaped.
        ConfigurationError: the placement cannot be had.
    """
    if placement.quantisation is not None:
        raise ConfigurationError(
            f"quantisation {placement.quantisation!r} is not offered for this family: most of its weights are "
            "experts, which the quantised layers do not cover; load it in bfloat16"
        )
    found = {name: shape for file in weight_files(folder) for name, shape in read_shapes(file).items()}
    options: dict[str, Any] = {}
    if placement.device_map is not None:
        options = _device_map(placement)
    try:
        loaded: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(
            str(folder),
            dtype=placement.dtype or "auto",
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, StrictDataclassError) as error:
        raise _unfit(folder, error) from error
    model, report = loaded
    there = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # A tensor that is tied to a saved one is neither in the file nor missing.
    needed = found.keys() | set(report["missing_keys"])
    check_fit(folder, {name: shape for name, shape in there.items() if name in needed}, found)
    if placement.device_map is None:
        model.to(placement.device)
    network: nn.Module = model.eval()
    return network


def outline_network(folder: Path, placement: Placement) -> nn.Module:
    """The network on the meta device, in evaluation mode.

    Args:
        folder: config.json and generation_config.json, as published; weights are not looked at.
        placement: dtype of the weights; None: that of config.json.

    Raises:
        CheckpointError: the configuration is missing, or not of this family.
    """
    try:
        config: Any = DiffusionGemmaConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: Any = DiffusionGemmaForBlockDiffusion(config)
        if (folder / GENERATION_CONFIG_NAME).is_file():
            settings = model.generation_config_class
            model.generation_config = settings.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, StrictDataclassError) as error:
        raise _unfit(folder, error) from error
    network: nn.Module = model.to(placement.dtype or config.dtype or torch.float32).eval()
    return network


def _unfit(folder: Path, error: Exception) -> CheckpointError:
    line = " ".join(str(error).split())
    return CheckpointError(f"{folder} cannot be loaded as a DiffusionGemma checkpoint: {line}")


def _device_map(placement: Placement) -> dict[str, Any]:
    """What transformers is told about devices."""
    mapping = placement.device_map
    if not isinstance(mapping, str | None) and DISK in mapping.values():
        raise ConfigurationError(
            f"device_map puts a part on {DISK!r}, which this family's adapter does not offer: name devices"
        )
    return {"device_map": mapping, "max_memory": placement.max_memory}
