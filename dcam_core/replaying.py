"""How an engine has its runs replayed: in chunks of which size, and with what care for memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from dcam_core.errors import ConfigurationError
from dcam_core.estimating.chunks import AUTO, STATES_PER_FORWARD, chunk_size, states_that_fit
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.replays import Replays

if TYPE_CHECKING:
    from PIL import Image

    from dcam_core.bound_method import BoundMethod
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.readings import TargetReading

__all__ = ["Replaying"]


@dataclass(frozen=True)
class Replaying:
    """Makes a run's replays for one method.

    Attributes:
        bound: the method.
        states_per_forward: how many replayed states share a forward pass; "auto": as many as the free memory of the
            device will hold.
        targets_per_backward: how many targets of one state share a vectorised backward pass.
        checkpointing: whether blocks above the probed module are computed anew in the backward pass.
        offload: whether the graph of a replay lies on the CPU until its backward passes.

    Raises:
        ConfigurationError: one of the numbers is below 1.
    """

    bound: BoundMethod
    states_per_forward: int | Literal["auto"] = STATES_PER_FORWARD
    targets_per_backward: int = 1
    checkpointing: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        if self.targets_per_backward < 1:
            raise ConfigurationError(f"targets_per_backward is {self.targets_per_backward}: give at least 1")
        chunk_size(self.states_per_forward)

    @property
    def chunk(self) -> int:
        """How many states share a forward pass where no estimate is made."""
        return chunk_size(self.states_per_forward)

    def of(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        readings: Sequence[TargetReading],
        pictures: Sequence[Image.Image],
    ) -> Replays:
        """A run as the attribution gets it, in chunks that fit into the memory that is free now if that was asked."""
        replays = self.as_asked(inputs, trajectory, readings, pictures)
        if self.states_per_forward == AUTO and replays.readings:
            return dataclasses.replace(replays, states_per_forward=states_that_fit(replays))
        return replays

    def as_asked(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        readings: Sequence[TargetReading],
        pictures: Sequence[Image.Image],
    ) -> Replays:
        """The same, whatever memory is free."""
        return Replays(
            self.bound.model,
            inputs,
            trajectory,
            [item.reading for item in readings],
            picture_grids(inputs, self.bound.method.views),
            self.bound.layers,
            pictures,
            states_per_forward=self.chunk,
            targets_per_backward=self.targets_per_backward,
            checkpointing=self.checkpointing,
            offload=torch.device("cpu") if self.offload else None,
        )
