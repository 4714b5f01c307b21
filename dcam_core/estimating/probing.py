"""The probe on the first states of a run: what it takes, and where."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import TYPE_CHECKING

from dcam_core.probing.replayed import states_apart

if TYPE_CHECKING:
    from torch import Tensor

    from dcam_core.estimating.counting import PeakTensorMemory
    from dcam_core.probing.replayed import Reading
    from dcam_core.probing.replays import Replays

__all__ = ["FirstStates", "GraphSize"]


class FirstStates:
    """The states of a run in their order, of which some are replayed.

    Args:
        replays: the run.

    Attributes:
        count: how many different states there are.
    """

    def __init__(self, replays: Replays) -> None:
        self._replays = replays
        self._members = states_apart(replays.readings)
        self.count = len(self._members)

    def of(self, states: int, together: int) -> Replays:
        """The replays of the first of them alone.

        Args:
            states: how many, if there are as many.
            together: how many share a forward pass.
        """
        readings = [self._replays.readings[index] for members in self._members[:states] for index in members]
        return dataclasses.replace(self._replays, readings=readings, states_per_forward=together)

    def peak(self, memory: PeakTensorMemory, states: int) -> int:
        """Highest number of bytes alive while the first of them are replayed in one forward pass.

        Args:
            memory: counts; its peak starts anew.
            states: how many.
        """
        memory.restart()
        for _ in islice(self.of(states, states).probed(), 1):
            pass
        return memory.peak


class GraphSize:
    """Notes what is alive when a forward pass has ended and its backward passes have not begun.

    Args:
        memory: counts; what is recent in it begins there.

    Attributes:
        alive: number of bytes then, in the last forward pass.
    """

    def __init__(self, memory: PeakTensorMemory) -> None:
        self._memory = memory
        self.alive = 0

    def noted_by(self, reading: Reading) -> Reading:
        """The same reading; whenever its scalar is computed, what is alive is noted."""
        objective = reading.objective

        def score(logits: Tensor, ids: Tensor) -> Tensor:
            self.alive = self._memory.alive
            self._memory.mark()
            return objective.score(logits, ids)

        return dataclasses.replace(reading, objective=dataclasses.replace(objective, score=score))
