"""States of the answer, replayed: one forward pass for several states, and what is read in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.denoising.decision import Decider
from dcam_core.probing.fitting import ChunkSize

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs
    from dcam_core.probing.gradient_targets import GradientTarget

__all__ = ["Quantity", "Reading", "ReplayedStates", "StateReader", "log_probability", "states_apart"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One scalar to differentiate in one state.

    Attributes:
        state: [G] int64, the answer region to replay.
        positions: answer positions of the tokens read.
        token_ids: the token at each of them.
        objective: the scalar.
        conditioning: what the state's step was handed besides the ids; None: nothing. Readings share a forward
            pass if their states hold the same ids and this is the same object.
    """

    state: Tensor
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    objective: GradientTarget
    conditioning: Any = None

    @property
    def read(self) -> tuple[int, ...]:
        """All answer positions whose logits are looked at, those of its tokens first."""
        return (*self.positions, *self.objective.context)


def states_apart(readings: Sequence[Reading]) -> list[list[int]]:
    """For every different state, the indices of the readings that are read in it."""
    # States are shared by value: two words decided at the same step need one forward pass.
    unique: dict[tuple[bytes, int], list[int]] = {}
    for index, reading in enumerate(readings):
        key = (reading.state.numpy().tobytes(), id(reading.conditioning))
        unique.setdefault(key, []).append(index)
    return list(unique.values())


def log_probability(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Summed log-probability, in nats, of tokens [p] in the first rows of logits [p + c, V]: a scalar."""
    return logits[: len(token_ids)].log_softmax(-1).gather(-1, token_ids[:, None]).sum()


class ReplayedStates:
    """One forward pass over some states, and the rows of its logits that each reading looks at.

    Args:
        decider: decides as during generation.
        readings: all readings.
        members: for each state to replay, the readings that are read in it.
        device: of the prompt.

    Attributes:
        pairs: (row of its state, index of the reading) of all that are read, state by state.
    """

    def __init__(
        self,
        decider: Decider,
        readings: Sequence[Reading],
        members: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._readings, self._device = readings, device
        self.pairs = [(row, index) for row, group in enumerate(members) for index in group]
        states = torch.stack([readings[group[0]].state for group in members]).to(device)
        conditioning = [readings[group[0]].conditioning for group in members]
        wanted = sorted({position for _, index in self.pairs for position in readings[index].read})
        self._columns = {position: column for column, position in enumerate(wanted)}
        self._logits = decider.logits(states, torch.tensor(wanted, device=device), conditioning)

    def score(self, row: int, index: int) -> Tensor:
        """The scalar of a reading, with a graph in grad mode.

        Args:
            row: which of the replayed states.
            index: which reading.
        """
        logits, ids = self._seen(row, index)
        return self._readings[index].objective.score(logits, ids)

    def log_probability(self, row: int, index: int) -> Tensor:
        """The summed log-probability of a reading's tokens, without a graph; as `score`."""
        with torch.no_grad():
            return log_probability(*self._seen(row, index))

    def _seen(self, row: int, index: int) -> tuple[Tensor, Tensor]:
        """The logits that a reading looks at, and its tokens."""
        reading = self._readings[index]
        logits = self._logits[row, [self._columns[position] for position in reading.read]]
        return logits, torch.tensor(reading.token_ids, device=self._device)


Quantity = Callable[[ReplayedStates, int, int], Tensor]
"""`ReplayedStates.score` or `ReplayedStates.log_probability`: (states, row, index of a reading) -> scalar."""


class StateReader:
    """Reads what the model says in some states of the answer, with any prompt before it.

    How many states fit into memory at once is remembered from one prompt to the next.

    Args:
        adapter: the model; call within `dcam_core.probing.untouched.untouched`, and without grad mode.
        readings: R, in any states.
        settings: guidance, suppressed ids and prefix cache, as during generation.
        states_per_forward: how many states share a forward pass, if so many fit.
    """

    def __init__(
        self,
        adapter: Adapter,
        readings: Sequence[Reading],
        settings: SamplerSettings,
        states_per_forward: int,
    ) -> None:
        self._adapter, self._readings, self._settings = adapter, readings, settings
        self._states = states_apart(readings)
        self._chunks = ChunkSize(states_per_forward)

    def read(self, inputs: Inputs, *quantities: Quantity) -> Tensor:
        """Replay all states, and read something of every reading.

        Args:
            inputs: the prepared prompt.
            quantities: Q of the methods of `ReplayedStates`.

        Returns:
            [Q, R] float32 on the CPU.
        """
        device = inputs.embeddings.device
        decider = Decider(self._adapter, inputs, self._settings)
        found = torch.zeros(len(quantities), len(self._readings))

        def replay(members: Sequence[Sequence[int]]) -> None:
            replayed = ReplayedStates(decider, self._readings, members, device)
            for row, index in replayed.pairs:
                values = [quantity(replayed, row, index).float() for quantity in quantities]
                found[:, index] = torch.stack(values).cpu()

        for _ in self._chunks.over(self._states, replay):
            pass
        return found
