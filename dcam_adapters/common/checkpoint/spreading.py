"""Spreading the language model's blocks over devices, with accelerate.

Only whole blocks are spread, and each gives its output back on the device of its input: what is outside of the
blocks, and what an adapter or the engine computes between modules, stays on one device, the main one. A hidden
state is small beside a block's weights, so the way there and back costs little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcam_adapters.common.checkpoint.listing import listed
from dcam_adapters.common.checkpoint.reading import read_tensors
from dcam_core.errors import ConfigurationError
from dcam_core.placement import DISK, Placement

__all__ = ["Places", "attach_hooks", "block_places", "place_of"]

Places = Mapping[str, torch.device | str]
"""Module path of a block -> its device, or `DISK`; blocks on the main device are not named."""


def place_of(name: str, places: Places, main: torch.device) -> torch.device | str:
    """Where a tensor belongs.

    Args:
        name: its name in the state dict.
        places: see `Places`.
        main: the main device.
    """
    return next((place for path, place in places.items() if name.startswith(f"{path}.")), main)


def block_places(
    model: nn.Module, blocks: str | None, placement: Placement, where: Mapping[str, Path]
) -> Places:
    """The blocks that do not go to the main device.

    Args:
        model: the model, on the meta device.
        blocks: module path of the list of blocks; None: there is nothing to spread.
        placement: the device map, if any.
        where: name of a tensor -> the file that holds it.

    Raises:
        ConfigurationError: accelerate is missing; the map names what is no module, splits a block, or puts
            something outside of the blocks on another device than the main one; blocks are to stay on disk in a
            file that is no safetensors, or quantised.
    """
    if placement.device_map is None or blocks is None:
        return {}
    _accelerate()
    paths = [f"{blocks}.{name}" for name, _ in model.get_submodule(blocks).named_children()]
    if isinstance(placement.device_map, str):
        wanted = _by_strategy(model, blocks, placement, where)
    else:
        _check(model, paths, placement.device_map, placement.device)
        wanted = {path: _nearest(path, placement.device_map, placement.device) for path in paths}
    places = {path: place for path, place in wanted.items() if place != placement.device}
    offloaded = [path for path, place in places.items() if _offloaded(place, placement.device)]
    if offloaded and placement.quantisation is not None:
        raise ConfigurationError(
            f"quantised blocks cannot be kept on the CPU or on disk for a model on {placement.device} "
            f"({listed(offloaded)}): they would be quantised anew at every call; leave quantisation out"
        )
    pickles = [
        file.name
        for name, file in where.items()
        if place_of(name, places, placement.device) == DISK and file.suffix != ".safetensors"
    ]
    if pickles:
        raise ConfigurationError(
            f"device_map leaves blocks on disk, but {pickles[0]} is no safetensors file, from which they could be "
            "read one by one: convert it, or leave 'disk' out"
        )
    return places


def attach_hooks(model: nn.Module, places: Places, placement: Placement, where: Mapping[str, Path]) -> None:
    """Makes every block that is elsewhere take its inputs there and give its outputs back.

    Blocks on disk, and those on the CPU of a model that computes on an accelerator, compute on the main device;
    accelerate's hooks bring the weights of each layer in just before it runs. Their parameters are frozen, because
    the hooks make new ones at every call.

    Args:
        model: the model; all tensors but those on disk are where they belong.
        places: the blocks that are elsewhere.
        placement: the main device and the dtype.
        where: name of a tensor -> the file that holds it.
    """
    if not places:
        return
    hooks, offload = _accelerate()
    kept: dict[str, torch.Tensor] = {}
    index: dict[str, dict[str, str]] = {}
    for path, place in places.items():
        block = model.get_submodule(path)
        if not _offloaded(place, placement.device):
            hooks.add_hook_to_module(block, hooks.AlignDevicesHook(place, io_same_device=True))
            continue
        block.requires_grad_(False)
        for name, tensor in block.state_dict(prefix=f"{path}.").items():
            if place == DISK:
                index[name] = {"safetensors_file": str(where[name]), "weight_name": name}
                if placement.dtype is not None and tensor.is_floating_point():
                    index[name]["dtype"] = str(placement.dtype).removeprefix("torch.")
            else:
                kept[name] = tensor
    weights = offload.OffloadedWeightsLoader(state_dict=kept, index=index, device=str(placement.device))
    for path, place in places.items():
        if _offloaded(place, placement.device):
            hooks.attach_align_device_hook(
                model.get_submodule(path),
                execution_device=placement.device,
                offload=True,
                weights_map=weights,
                module_name=path,
            )


def _accelerate() -> tuple[Any, Any]:
    """Accelerate's modules of hooks and of offloaded weights."""
    try:
        from accelerate import hooks
        from accelerate.utils import offload
    except ImportError as error:
        raise ConfigurationError(
            f"device_map needs accelerate, which cannot be imported ({error}): pip install 'dcam[placement]', "
            "or leave device_map out"
        ) from error
    return hooks, offload


def _offloaded(place: torch.device | str, main: torch.device) -> bool:
    """Whether weights of that place compute on the main device."""
    return place == DISK or (main.type != "cpu" and place == torch.device("cpu"))


def _nearest(
    path: str, device_map: Mapping[str, torch.device | str], main: torch.device
) -> torch.device | str:
    """The place of a module: its own, or that of the nearest module above it."""
    while path:
        if path in device_map:
            return device_map[path]
        path = path.rpartition(".")[0]
    return device_map.get("", main)


def _check(
    model: nn.Module,
    blocks: Sequence[str],
    device_map: Mapping[str, torch.device | str],
    main: torch.device,
) -> None:
    modules = {path for path, _ in model.named_modules()}
    if unknown := [path for path in device_map if path not in modules]:
        raise ConfigurationError(
            f"device_map names {listed(unknown)}, which is no module of the model: the blocks are "
            f"{blocks[0]} to {blocks[-1]}"
        )
    if split := [path for path in device_map if path.startswith(tuple(f"{block}." for block in blocks))]:
        raise ConfigurationError(
            f"device_map splits blocks ({listed(split)}): name whole blocks, as {blocks[0]}"
        )
    inside = tuple(f"{block}." for block in blocks)
    outside = [name for name in model.state_dict() if not name.startswith(inside)]
    if elsewhere := [name for name in outside if _nearest(name, device_map, main) != main]:
        raise ConfigurationError(
            f"device_map puts {listed(elsewhere)} on another device than the main one ({main}): only the blocks "
            f'can be spread; say {{"": "{main}", "{blocks[-1]}": ...}}'
        )


def _by_strategy(
    model: nn.Module, blocks: str, placement: Placement, where: Mapping[str, Path]
) -> dict[str, torch.device | str]:
    """What accelerate makes of the memory there is, after the main device has taken all but the blocks."""
    from accelerate.utils import CustomDtype, get_balanced_memory, get_max_memory, infer_auto_device_map

    container = model.get_submodule(blocks)
    name = next(f"{blocks}.{name}" for name in container.state_dict())
    dtype = placement.dtype or next(read_tensors(where[name], [name], lambda _, stored: stored))[1].dtype
    whole = {None: dtype, "8bit": torch.int8, "4bit": CustomDtype.INT4}[placement.quantisation]
    no_split = [type(block).__name__ for block in container.children()]

    memory = get_max_memory(dict(placement.max_memory) if placement.max_memory is not None else None)
    main = 0 if placement.device.type == "cuda" else "cpu"
    outside = [tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{blocks}.")]
    taken = sum(tensor.numel() * dtype.itemsize for tensor in outside)
    memory[main] = max(0, memory.get(main, 0) - taken)
    if placement.device_map != "sequential":
        memory = get_balanced_memory(container, memory, no_split, dtype=whole)
    found = infer_auto_device_map(container, memory, no_split, dtype=whole)
    places = {
        path: torch.device("cuda", place) if isinstance(place, int) else place
        for path, place in found.items()
    }
    places = {path: place if place == DISK else torch.device(place) for path, place in places.items()}
    return {
        f"{blocks}.{name}": _nearest(name, places, placement.device) for name, _ in container.named_children()
    }
