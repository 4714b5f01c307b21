"""Checkpoint folders: weights from safetensors alone, without remote code and without pickle.

The model is built on the meta device and every tensor of the file is assigned to it, so weights are in
memory once. Whatever does not fit is collected and named in one error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dcam_core.errors import CheckpointError

__all__ = ["assign_weights", "read_generation", "weight_files"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

SHOWN = 5
"""How many names of a kind an error message lists."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that its index names.

    Raises:
        CheckpointError: there are none, a shard is missing, or there are only pickles.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = _shards(folder)
        if absent := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(
                f"{folder} lacks {len(absent)} of the {len(files)} shards that its index names: "
                f"{_listed(absent)}; finish the download"
            )
        return files
    if pickles := sorted(file.name for pattern in PICKLES for file in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder} has its weights as pickles only ({_listed(pickles)}): opening those can run any code, "
            "so dcam reads safetensors alone; convert them with safetensors.torch.save_file"
        )
    raise CheckpointError(
        f"{folder} has no weights: there is neither {SINGLE} nor {INDEX}; finish the download"
    )


def _shards(folder: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names."""
    path = folder / INDEX
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no index of shards ({type(error).__name__}: {error}): download it anew"
        ) from error
    return [folder / name for name in sorted(names)]


def assign_weights(
    model: nn.Module,
    files: Iterable[Path],
    *,
    ignored: Iterable[str] = (),
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Fills a model that was built on the meta device with the tensors of a checkpoint.

    Args:
        model: the model; its parameters are replaced.
        files: the safetensors files.
        ignored: regular expressions; tensors whose whole name matches one are neither read nor reported.
        device: where the tensors go.
        dtype: floating dtype of the tensors; None: as stored.

    Raises:
        CheckpointError: a file cannot be read, or tensors are missing, unexpected or mis-shaped.
    """
    skip = re.compile("|".join(f"(?:{pattern})" for pattern in ignored) or r"(?!)")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    misshaped: list[str] = []
    files = list(files)
    for file in files:
        try:
            with safe_open(file, framework="pt", device=str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                    if skip.fullmatch(name):
                        continue
                    if name not in expected:
                        unexpected.append(name)
                        continue
                    shape = tuple(tensors.get_slice(name).get_shape())
                    if shape != expected[name]:
                        misshaped.append(f"{name} {list(shape)} instead of {list(expected[name])}")
                        continue
                    tensor = tensors.get_tensor(name)
                    found[name] = tensor if dtype is None else tensor.to(dtype)
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is not a readable safetensors file ({error}): the download is incomplete, or it is "
                "a git LFS pointer; download it anew"
            ) from error
    mis = {entry.split(" ", 1)[0] for entry in misshaped}
    missing = [name for name in expected if name not in found and name not in mis]
    if missing or unexpected or misshaped:
        raise CheckpointError(_misfit(files[0].parent, missing, unexpected, misshaped))
    model.load_state_dict(found, assign=True)
    # What is not in the state dict (positions and the like) was made on the CPU.
    model.to(device)


def read_generation(folder: Path) -> dict[str, Any]:
    """The content of generation_config.json; empty if a checkpoint brings none.

    Raises:
        CheckpointError: the file is not a JSON object.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a JSON object: {error}") from error


def _misfit(folder: Path, missing: list[str], unexpected: list[str], misshaped: list[str]) -> str:
    """One line that names what does not fit, and the likely cause."""
    parts = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (
            ("mis-shaped", misshaped),
            ("missing", missing),
            ("unexpected", unexpected),
        )
        if names
    ]
    if misshaped:
        cause = "config.json is not the one that belongs to these weights"
    elif any("lora_" in name for name in unexpected):
        cause = "these are LoRA weights: merge them into the base model first"
    elif missing and unexpected:
        cause = "the weights are of another family, or their names carry a prefix from a training framework"
    elif missing:
        cause = "the checkpoint was saved in part; take the complete one"
    else:
        cause = "the model has parts that config.json does not speak of"
    return f"the weights in {folder} do not fit: {'; '.join(parts)}. Likely cause: {cause}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
