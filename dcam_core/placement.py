"""Where a model's weights go, and in which form: devices, dtype, quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from dcam_core.errors import ConfigurationError

__all__ = ["DISK", "DTYPES", "QUANTISATIONS", "STRATEGIES", "Placement"]

DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
"""Names of the dtypes in which a model can be loaded."""

STRATEGIES: Final = ("auto", "balanced", "sequential")
"""Device maps by name: "auto" and "balanced" fill all devices alike, "sequential" one after the other."""

QUANTISATIONS: Final = ("8bit", "4bit")
"""How the weights of the language model's blocks can be quantised."""

DISK: Final = "disk"
"""In a device map: the weights stay in the checkpoint's file and are read whenever they are needed."""


CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model go. Adapters hand it on to what assigns the weights.

    Attributes:
        device: the main device: embeddings, vision tower, head and all that is outside of the language
            model's blocks; the blocks too where there is no device map.
        dtype: floating dtype of the weights; None: as stored.
        device_map: how the blocks are spread over devices: one of `STRATEGIES`, or module path -> device
            or `DISK`; a path that is not named goes where the nearest module above it goes. None: no spreading.
        max_memory: bytes per device for a strategy, as accelerate takes it: {0: "20GiB", "cpu": "60GiB"}.
        quantisation: one of `QUANTISATIONS`; None: not quantised. Only linear layers of the blocks are.
    """

    device: torch.device = CPU
    dtype: torch.dtype | None = None
    device_map: str | Mapping[str, torch.device | str] | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    quantisation: str | None = None

    @classmethod
    def of(
        cls,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | Mapping[str, str | int | torch.device] | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        quantisation: str | None = None,
    ) -> Placement:
        """The placement that a user describes, with everything checked that can be before loading.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps"; None: "cpu", or the main device of `device_map`.
            dtype: a name of `DTYPES`, or a torch dtype; None: as stored, but float32 where all weights are
                on the CPU, where half precision is slow and inexact.
            device_map: see the class. Of a mapping, the main device is that of the path "", or else the first.
            max_memory: see the class.
            quantisation: see the class.

        Raises:
            ConfigurationError: no such device, dtype, strategy or quantisation, or two that exclude each other.
        """
        if device is not None and device_map is not None:
            raise ConfigurationError(
                f"both device ({device}) and device_map are given: the map says where everything goes, "
                "leave device out"
            )
        if quantisation is not None and quantisation not in QUANTISATIONS:
            raise ConfigurationError(
                f"quantisation {quantisation!r} is not one of {', '.join(QUANTISATIONS)}"
            )
        if max_memory is not None and not isinstance(device_map, str):
            raise ConfigurationError(
                f"max_memory is read by the device maps {', '.join(STRATEGIES)}: give one of them, or leave it out"
            )
        found_dtype = _dtype(dtype)
        if isinstance(device_map, str):
            if device_map not in STRATEGIES:
                raise ConfigurationError(
                    f"device_map {device_map!r} is not one of {', '.join(STRATEGIES)}; or give a mapping of "
                    "module paths to devices"
                )
            main = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
            on_cpu = main.type == "cpu"
            return cls(main, _default(found_dtype, on_cpu), device_map, max_memory, quantisation)
        if device_map is not None:
            places = {path: _place(path, place) for path, place in device_map.items()}
            main = _main_device(places)
            on_cpu = all(place in (DISK, CPU) for place in places.values())
            return cls(main, _default(found_dtype, on_cpu), places, None, quantisation)
        main = _device("cpu" if device is None else device)
        return cls(main, _default(found_dtype, main.type == "cpu"), None, None, quantisation)


def _default(dtype: torch.dtype | None, on_cpu: bool) -> torch.dtype | None:
    return torch.float32 if dtype is None and on_cpu else dtype


def _main_device(places: Mapping[str, torch.device | str]) -> torch.device:
    """That of everything that is not named; where all is named, the first that computes."""
    devices = [place for place in (places.get(""), *places.values()) if isinstance(place, torch.device)]
    if not devices or places.get("") == DISK:
        raise ConfigurationError(
            'device_map gives no device that computes: say where all that it does not name goes, e.g. {"": "cpu"}'
        )
    return devices[0]


def _place(path: str, place: str | int | torch.device) -> torch.device | str:
    if place == DISK:
        return DISK
    try:
        return _device(torch.device("cuda", place) if isinstance(place, int) else place)
    except ConfigurationError as error:
        raise ConfigurationError(f"device_map[{path!r}]: {error}, or {DISK!r}") from error


def _device(device: str | torch.device) -> torch.device:
    """A device that is there."""
    try:
        # "cuda" becomes "cuda:0", so that devices can be compared.
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).splitlines()[0]
        raise ConfigurationError(f"device {str(device)!r} cannot be used: {line}; use 'cpu'") from error
    if found.type == "meta":
        raise ConfigurationError("device 'meta' cannot be used: it holds no weights; use 'cpu'")
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name."""
    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
