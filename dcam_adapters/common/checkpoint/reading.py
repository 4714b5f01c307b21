"""Reading tensors from one file of weights, without keeping more of the file in memory than is in use."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dcam_core.errors import CheckpointError

__all__ = ["read_shapes", "read_tensors"]

CHUNK = 2**24
"""Bytes of a mapped file that are touched before it is mapped anew. Pages of a mapping stay in memory until it is
closed: where tensors are converted, that would be a second copy of the weights."""

LFS_POINTER = b"version https://git-lfs"

UNSAFE_PICKLE = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")
"""How torch says that a pickle wants to call something that is no part of a tensor."""


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a file; no weights are read.

    Args:
        file: safetensors, or a state dict that `torch.save` wrote.

    Raises:
        CheckpointError: the file is empty, truncated, a git LFS pointer, or something else.
    """
    opened = _Opened(file)
    return {name: tuple(opened.get(name).shape) for name in opened.names}


def read_tensors(
    file: Path, names: Iterable[str], convert: Callable[[str, Tensor], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file, one after the other.

    Args:
        file: as for `read_shapes`.
        names: which tensors, in any order.
        convert: (name, tensor as stored, on the CPU) -> what is yielded. A tensor that it gives back as it is
            stays backed by the file.

    Yields:
        (name, converted tensor).

    Raises:
        CheckpointError: the file cannot be read.
    """
    opened, touched = _Opened(file), 0
    for name in names:
        if touched >= CHUNK:
            opened, touched = _Opened(file), 0
        stored = opened.get(name)
        touched += stored.nbytes
        converted = convert(name, stored)
        del stored
        yield name, converted
        del converted


class _Opened:
    """A file of weights, mapped into memory until the last reference to it, or to a tensor of it, has gone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with _explained(file):
            if file.suffix == ".safetensors":
                source: Any = safe_open(file, framework="pt", device="cpu")
                self.names = tuple(source.keys())
                self._get: Callable[[str], Tensor] = source.get_tensor
            else:
                state = _unpickled(file)
                self.names = tuple(state)
                self._get = state.__getitem__

    def get(self, name: str) -> Tensor:
        """A tensor as stored; its bytes are read when they are looked at."""
        with _explained(self._file):
            return self._get(name)


def _unpickled(file: Path) -> dict[str, Tensor]:
    """A state dict, mapped where the format allows it (that of torch before 1.6 does not)."""
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(
            f"{file} is not the weights of a model: it does not hold tensors by name (a state dict) and nothing "
            "else; give the file that save_pretrained wrote"
        )
    return state


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Says what is wrong with a file that cannot be read."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # an unpickler answers garbage with whatever it stumbles over
        raise CheckpointError(_why_unreadable(file, error)) from error


def _why_unreadable(file: Path, error: Exception) -> str:
    """What is wrong with a file, from its first bytes and its length."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(len(LFS_POINTER) * 2)
    except OSError as failure:
        return f"{file} cannot be read: {failure.strerror}"
    if size == 0:
        return f"{file} is empty: the download never began; download it anew"
    if start.startswith(LFS_POINTER):
        return f"{file} is a git LFS pointer, not the weights: run `git lfs pull` in its folder"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"{file} is a web page, not the weights: download the file itself"
    if file.suffix == ".safetensors":
        if (whole := _declared_size(file)) is not None and whole > size:
            return f"{file} is truncated: it has {size} bytes, its header speaks of {whole}; download it anew"
        return f"{file} is not a readable safetensors file ({error}): download it anew"
    if code := UNSAFE_PICKLE.search(str(error)):
        return (
            f"{file} holds more than tensors ({code[1]}): opening it could run any code, so dcam does not; "
            "convert it to safetensors where you trust it"
        )
    return (
        f"{file} is truncated, or is no file that torch.save wrote ({type(error).__name__}): download it anew"
    )


def _declared_size(file: Path) -> int | None:
    """Length in bytes of a safetensors file as its header says; None if the header itself is broken.

    Format: an 8-byte little-endian length, a JSON header of that length, the tensors.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        # The format limits headers to 100 MB: a larger figure is none.
        if length > 100_000_000:
            return None
        header = opened.read(length)
    if len(header) < length:
        return 8 + length
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return 8 + length + int(max(ends, default=0))
