"""Which files of a checkpoint folder hold its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcam_adapters.common.checkpoint.listing import listed
from dcam_adapters.common.checkpoint.reading import read_shapes
from dcam_core.errors import CheckpointError

__all__ = ["present_weight_files", "read_generation", "weight_files"]

NAMES = ("model", "pytorch_model")

OTHER_PICKLES = ("*.pt", "*.pth", "*.ckpt", "*.bin")

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""What peft saves: the weights of a LoRA adapter without those of the model under it."""


def weight_files(folder: Path, names: Sequence[str] = NAMES) -> list[Path]:
    """The files with a checkpoint's weights: one, or the shards that an index names.

    Safetensors are preferred to pickles, and within a format an earlier name to a later one.

    Args:
        folder: the checkpoint.
        names: file names without their endings: "model" stands for model.safetensors, model.bin and, for
            shards, model.safetensors.index.json and model.bin.index.json.

    Raises:
        CheckpointError: there are none, a shard is missing, a shard is not what the index
            says, or there are only pickles of a kind that dcam does not open.
    """
    candidates = [f"{name}.{ending}" for ending in ("safetensors", "bin") for name in names]
    for candidate in candidates:
        if (folder / candidate).is_file():
            return [folder / candidate]
        if (index := folder / f"{candidate}.index.json").is_file():
            return _shards(index)
    raise CheckpointError(_why_none(folder, candidates))


def present_weight_files(folder: Path) -> list[Path]:
    """As `weight_files`, but empty where a folder has configuration and tokenizer alone: an index may be among them.

    Args:
        folder: the checkpoint.

    Raises:
        CheckpointError: as `weight_files`, where there are weights.
    """
    there = any(any(folder.glob(pattern)) for pattern in ("*.safetensors", *OTHER_PICKLES))
    return weight_files(folder) if there else []


def _shards(index: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names; all are there, with the tensors they should have."""
    try:
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        names = {str(name) for name in weight_map.values()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{index} is no index of shards ({type(error).__name__}: {error}): download it anew"
        ) from error
    if outside := sorted(name for name in names if Path(name).name != name):
        raise CheckpointError(
            f"{index} names shards outside of its folder ({listed(outside)}): it is not a published index"
        )
    files = [index.parent / name for name in sorted(names)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of the {len(files)} shards that its index names: "
            f"{listed(absent)}; finish the download"
        )
    for file in files:
        there = read_shapes(file)
        if lacking := [
            name for name, shard in weight_map.items() if shard == file.name and name not in there
        ]:
            raise CheckpointError(
                f"{file} lacks {len(lacking)} tensors that {index.name} says it has: {listed(lacking)}; shard and "
                "index are of different versions: download both anew"
            )
    return files


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


def _why_none(folder: Path, candidates: Sequence[str]) -> str:
    if adapters := [name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]:
        return (
            f"{folder} has the weights of a LoRA adapter alone ({adapters[0]}): merge them into the base model "
            "(peft: merge_and_unload) and save that, or load the base model, put the adapter on and use wrap_model"
        )
    if pickles := sorted({file.name for pattern in OTHER_PICKLES for file in folder.glob(pattern)}):
        return (
            f"{folder} has no weights in a format that dcam opens, only pickles ({listed(pickles)}): opening "
            f"those can run any code; convert them with safetensors.torch.save_file to {candidates[0]}"
        )
    return (
        f"{folder} has no weights: there is none of {', '.join(candidates)}, nor an index of shards; "
        "finish the download"
    )
