"""What an estimate says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["MemoryEstimate", "Phase"]

MIB = 2**20


@dataclass(frozen=True)
class Phase:
    """One stage of a run.

    Attributes:
        name: what is done.
        peak: highest number of bytes of tensors alive at once in it, the weights left out.
    """

    name: str
    peak: int


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of tensors that an explanation takes, in bytes.

    Attributes:
        model: name of the model.
        method: name of the method.
        dtype: floating dtype of the weights.
        quantisation: how the blocks' weights are quantised; None: they are not.
        image_size: (width, height) in pixels.
        prompt_length: positions of the prompt.
        image_tokens: how many of them show the picture.
        answer_length: positions of the answer region.
        layers: module paths that are probed.
        targets: how many words are explained.
        states: how many states of the answer are replayed for them.
        states_per_forward: how many share a forward pass.
        targets_per_backward: how many targets of a state share a backward pass.
        checkpointing: whether blocks above the probe keep their inputs alone.
        weights: parameters and buffers.
        phases: stages in their order; they follow each other, so the largest counts.
        graph: alive when the forward pass of a replay has ended: what its backward passes will need.
        gradients: what the backward passes take beyond that. Where little is kept for them, the forward pass itself
            takes more than both.
        offloaded: what of the graph lies in the CPU's memory meanwhile; not in any of the other figures.
        per_state: what one further state in a forward pass takes; 0 where a single one is replayed.
        left_out: what could not be counted.
    """

    model: str
    method: str
    dtype: str
    quantisation: str | None
    image_size: tuple[int, int]
    prompt_length: int
    image_tokens: int
    answer_length: int
    layers: tuple[str, ...]
    targets: int
    states: int
    states_per_forward: int
    targets_per_backward: int
    checkpointing: bool
    weights: int
    phases: tuple[Phase, ...]
    graph: int
    gradients: int
    offloaded: int
    per_state: int
    left_out: tuple[str, ...] = ()

    @property
    def activations(self) -> int:
        """The largest phase: what a run takes beyond the weights."""
        return max(phase.peak for phase in self.phases)

    @property
    def peak(self) -> int:
        """Weights and the largest phase."""
        return self.weights + self.activations

    def as_dict(self) -> dict[str, Any]:
        """As plain data, `activations` and `peak` among them."""
        return {**dataclasses.asdict(self), "activations": self.activations, "peak": self.peak}

    def __str__(self) -> str:
        form = self.dtype if self.quantisation is None else f"{self.dtype}, {self.quantisation}"
        width, height = self.image_size
        rows = [
            ("weights", self.weights, form),
            *((phase.name, phase.peak, self._remark(phase)) for phase in self.phases),
            ("peak", self.peak, "weights and the largest of the phases"),
        ]
        lines = [
            f"{self.model}, {self.method} at {', '.join(self.layers)}: {self.targets} targets of a picture of "
            f"{width} x {height}",
            f"prompt of {self.prompt_length} positions, {self.image_tokens} of them picture; "
            f"answer of {self.answer_length}",
            *(f"  {name:<20}{_mib(size):>12}  {remark}".rstrip() for name, size, remark in rows),
            *(f"left out: {each}" for each in self.left_out),
        ]
        return "\n".join(lines)

    def _remark(self, phase: Phase) -> str:
        if phase.name != "explaining":
            return ""
        together = min(self.states, self.states_per_forward)
        parts = [
            f"graph {_mib(self.graph)}",
            f"gradients {_mib(self.gradients)}",
            f"{together} of {self.states} states in a forward pass",
        ]
        if self.per_state:
            parts.append(f"{_mib(self.per_state)} for each further one")
        if self.offloaded:
            parts.append(f"{_mib(self.offloaded)} on the CPU")
        return "; ".join(parts)


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"
