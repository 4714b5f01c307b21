"""How many states fit into a forward pass, by the memory that is free."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Final

import torch

from dcam_core.errors import ConfigurationError
from dcam_core.estimating.counting import PeakTensorMemory
from dcam_core.estimating.fakes import elsewhere, fake_weights
from dcam_core.estimating.probing import FirstStates
from dcam_core.probing.replays import Replays

__all__ = ["AUTO", "STATES_PER_FORWARD", "chunk_size", "free_memory", "states_that_fit"]

AUTO: Final = "auto"
"""As many states as the free memory will hold."""

STATES_PER_FORWARD: Final = 8
"""States of a forward pass where nothing is known about memory."""

SHARE: Final = 0.8
"""Of the free memory that is planned with: allocators lose some between tensors, kernels take some for themselves."""

logger = logging.getLogger("dcam.probing")


def chunk_size(asked: int | str) -> int:
    """How many states share a forward pass where no estimate is made.

    Raises:
        ConfigurationError: it is neither a positive number nor "auto".
    """
    if asked == AUTO:
        return STATES_PER_FORWARD
    if not isinstance(asked, int) or asked < 1:
        raise ConfigurationError(f'states_per_forward is {asked!r}: give a number of at least 1, or "{AUTO}"')
    return asked


def states_that_fit(replays: Replays) -> int:
    """How many of a run's states can be replayed in one forward pass, at least 1.

    Two small replays on fake tensors say what the first state takes, and what each further one does. Where they
    cannot be made, it is `STATES_PER_FORWARD`, which the log says.

    Args:
        replays: the run.
    """
    free = free_memory(replays.device)
    first = FirstStates(replays)
    if free is None or first.count == 1:
        return first.count
    try:
        with fake_weights(replays.adapter) as fakes, PeakTensorMemory() as memory:
            shown = dataclasses.replace(
                replays,
                inputs=fakes.prompt(replays.inputs),
                offload=elsewhere(replays.offload, replays.device),
            )
            states = FirstStates(shown)
            one, two = (states.peak(memory, count) for count in (1, 2))
    except Exception as error:  # noqa: BLE001 - an adapter's code may look at numbers in any way; it is only an estimate
        logger.warning(
            "states_per_forward=auto: no estimate for %s (%s): %d",
            replays.adapter.name,
            " ".join(str(error).split()),
            STATES_PER_FORWARD,
        )
        return STATES_PER_FORWARD
    further = max(1, two - one)
    fitting = 1 + int(SHARE * free - one) // further
    return max(1, min(first.count, fitting))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where that cannot be asked.

    Args:
        device: an accelerator of CUDA's kind, or the CPU of a Linux machine.
    """
    if device.type == "cuda":
        # What torch holds but does not use can be used, too.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    meminfo = Path("/proc/meminfo")
    if device.type == "cpu" and meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
