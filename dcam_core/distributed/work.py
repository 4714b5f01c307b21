"""What several processes can share, and how many of them there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from dcam_core.errors import ConfigurationError

if TYPE_CHECKING:
    from dcam_core.progress import Progress

__all__ = ["Processes", "SharedWork"]

STRATEGIES: dict[str, Literal["popen", "fork"]] = {"ddp": "popen", "ddp_notebook": "fork", "ddp_fork": "fork"}
"""Lightning's names for processes that each have the whole model -> how they are started."""


class SharedWork(ABC):
    """Work on numbered things, any of which any process can do.

    The order in every process: `prepare`, `join`, `do` for its share. Then it waits for the others.

    Attributes:
        stage: what is being done, for `progress`: "evaluating".
    """

    stage: ClassVar[str]

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Load what the work needs.

        Args:
            device: that of this process.
        """

    @abstractmethod
    def remaining(self) -> Sequence[int]:
        """What is to be done. Asked in the first process alone, when all are prepared and none has begun."""

    @abstractmethod
    def join(self, rank: int) -> None:
        """Make ready to keep what this process does.

        Args:
            rank: its number; the first is 0.
        """

    @abstractmethod
    def do(self, index: int) -> None:
        """Do one thing, and keep it so that the end of the process cannot take it away."""

    @abstractmethod
    def finish(self, done: int) -> None:
        """Bring together what was kept. Called in the first process alone, when all have done their share.

        Args:
            done: number of things that all processes together have done.
        """


@dataclass(frozen=True)
class Processes:
    """How many processes share the work: one per device, on every node, each with the whole model.

    Attributes:
        accelerator: kind of the devices: "cpu", "cuda", "mps".
        devices: number of devices per node; "auto": all of them, and one for CPUs.
        nodes: number of nodes.
        strategy: "ddp", whose processes call the program again, or are there already (torchrun, SLURM);
            "ddp_notebook" for notebooks.

    Raises:
        ConfigurationError: there is no such strategy, or number.
    """

    accelerator: str = "cpu"
    devices: int | str = "auto"
    nodes: int = 1
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigurationError(
                f"strategy is {self.strategy!r}: every process loads the whole model and takes a share of the work: "
                f"give one of {', '.join(STRATEGIES)}; a model larger than a device is spread with device_map instead"
            )
        if self.devices != "auto" and (not isinstance(self.devices, int) or self.devices < 1):
            raise ConfigurationError(
                f"devices is {self.devices!r}: give a number of devices per node, or 'auto'"
            )
        if self.nodes < 1:
            raise ConfigurationError(f"nodes is {self.nodes}: give at least 1")

    @classmethod
    def asked(
        cls, loading: Mapping[str, Any], devices: int | str | None, nodes: int, strategy: str | None
    ) -> Self | None:
        """The processes that a user asks for; None: this one does everything.

        Args:
            loading: keywords of `dcam_core.load_model`; `device` says what kind the devices are of.
            devices: as in the class; None: not asked for.
            nodes: as in the class.
            strategy: as in the class; None: not asked for.

        Raises:
            ConfigurationError: the model is to be on one device of several, or spread over them.
        """
        if devices is None and nodes == 1 and strategy is None:
            return None
        if loading.get("device_map") is not None:
            raise ConfigurationError(
                "device_map spreads one model over the devices, and each of several processes has a model on its own "
                "device: give device_map, or devices and nodes"
            )
        kind, _, number = str(loading.get("device") or "cpu").partition(":")
        if number:
            raise ConfigurationError(
                f"device is {loading['device']!r}, and every process has a device of its own: give {kind!r}"
            )
        if isinstance(devices, str) and devices.isdecimal():
            devices = int(devices)
        return cls(kind, "auto" if devices is None else devices, nodes, strategy or "ddp")

    def share(self, work: SharedWork, progress: Progress | None = None) -> None:
        """Do all of it. Every process of a launch must come here.

        Args:
            work: what is to be done.
            progress: called in the first process after each thing of its share.

        Raises:
            ConfigurationError: there are no such devices, or the processes that were started are not as many.
        """
        from dcam_core.distributed.sharing import share_out  # Lightning takes a while to import

        share_out(self, work, progress)

    @staticmethod
    def is_first() -> bool:
        """Whether this process is the first of all, which speaks for them."""
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.pytorch.utilities import rank_zero_only

        # Before a trainer is made, Lightning knows nothing of further nodes on which somebody called by hand.
        return int(getattr(rank_zero_only, "rank", 0)) == 0 and LightningEnvironment().node_rank() == 0
