"""Filling a model that was built on the meta device with the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from dcam_adapters.common.checkpoint.misfit import check_fit
from dcam_adapters.common.checkpoint.quantising import quantise_blocks, quantised_weight
from dcam_adapters.common.checkpoint.reading import read_shapes, read_tensors
from dcam_adapters.common.checkpoint.spreading import attach_hooks, block_places, place_of
from dcam_core.placement import DISK, Placement

__all__ = ["assign_weights", "outline_weights"]

CPU, META = torch.device("cpu"), torch.device("meta")


def assign_weights(
    model: nn.Module,
    files: Iterable[Path],
    *,
    placement: Placement,
    blocks: str | None = None,
    ignored: Iterable[str] = (),
) -> None:
    """Fills a model that was built on the meta device with the tensors of a checkpoint.

    Peak memory is the weights as they are placed, and one tensor more.

    Args:
        model: the model; its parameters are replaced.
        files: the files with the weights, from `weight_files`.
        placement: where the weights go, and in which form.
        blocks: module path of the list of the language model's blocks: what a device map spreads and a
            quantisation quantises. None: the whole model goes to the main device as it is.
        ignored: regular expressions; tensors whose whole name matches one are neither read nor reported.

    Raises:
        CheckpointError: a file cannot be read, or tensors are missing, unexpected or mis-shaped.
        ConfigurationError: the placement cannot be had for this model, or on this machine.
    """
    shapes = _fitting_shapes(model, files, ignored)
    where = {name: file for file, of_file in shapes.items() for name in of_file}
    expected = model.state_dict().keys()

    main = placement.device
    places = block_places(model, blocks, placement, where)
    quantised = quantise_blocks(model, blocks, placement, places)

    def convert(name: str, stored: Tensor) -> Tensor:
        place = CPU if name in quantised else place_of(name, places, main)
        # What stays on disk is known by shape and dtype alone.
        device = META if place == DISK else place
        return stored.to(device=device, dtype=placement.dtype if stored.is_floating_point() else None)

    for file, of_file in shapes.items():
        for name, tensor in read_tensors(file, of_file, convert):
            if name in quantised:
                layer = model.get_submodule(name.rpartition(".")[0])
                tensor = quantised_weight(layer, tensor, place_of(name, places, main))
            _assign(model, name, tensor)
    # What is not in the state dict (positions and the like) was made on the CPU.
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name not in expected:
            place = place_of(name, places, main)
            _assign(model, name, buffer.to(main if place == DISK else place))
    attach_hooks(model, places, placement, where)


def outline_weights(
    model: nn.Module, files: Iterable[Path], *, placement: Placement, ignored: Iterable[str] = ()
) -> None:
    """Gives a model on the meta device the dtypes that `assign_weights` would give it; no weights are read.

    Args:
        model: the model; its parameters are replaced, and stay on the meta device.
        files: as for `assign_weights`; none: the weights are not there, and all are of the placement's dtype, or else
            of the model's.
        placement: its dtype counts.
        ignored: as for `assign_weights`.

    Raises:
        CheckpointError: as `assign_weights`.
    """
    stored = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    if files := list(files):
        for file, of_file in _fitting_shapes(model, files, ignored).items():
            stored |= {
                name: tensor.dtype for name, tensor in read_tensors(file, of_file, lambda _, read: read)
            }
    for name, tensor in model.state_dict().items():
        dtype = placement.dtype if stored[name].is_floating_point and placement.dtype else stored[name]
        _assign(model, name, tensor.to(dtype))


def _fitting_shapes(
    model: nn.Module, files: Iterable[Path], ignored: Iterable[str]
) -> dict[Path, dict[str, tuple[int, ...]]]:
    """Shapes of the tensors of every file, without those that are ignored, which are those of the model."""
    skip = re.compile("|".join(f"(?:{pattern})" for pattern in ignored) or r"(?!)")
    shapes = {
        file: {name: shape for name, shape in read_shapes(file).items() if not skip.fullmatch(name)}
        for file in files
    }
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: shape for of_file in shapes.values() for name, shape in of_file.items()}
    check_fit(next(iter(shapes)).parent, expected, found)
    return shapes


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf not in module._parameters:
        module._buffers[leaf] = tensor
    elif isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
