"""The probe: replay decided states once, and read activations and gradients at the image tokens.

For a target decided at state s, the scalar S (a function of the logits at its positions) is differentiated
with respect to F, the output of the probed module. Only what must be computed is computed: the part of the
network below the probed module runs without a graph, logits are formed at the positions that are read, and
targets that share a state share its forward pass. Several layers are read in one pass forth and one back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ReplayError, StructuralValidityError
from dcam_core.probing.checkpointing import checkpointed
from dcam_core.probing.fitting import first_that_fits, in_chunks

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs
    from dcam_core.probing.gradient_targets import GradientTarget

__all__ = ["Probed", "Reading", "ReplayedStates", "probe", "probe_layers", "states_apart", "states_of"]


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


@dataclass(frozen=True, eq=False)
class Probed:
    """What the probe read at one layer, for R readings at once.

    Attributes:
        readings: [R] int, indices into the readings that were asked for.
        activations: [R, N, C], output of the probed module at the image tokens.
        gradients: [R, N, C], gradient of each reading's scalar with respect to it.
        scores: [R] float32, the scalars.
        log_probabilities: [R] float32, summed log-probability of the reading's tokens.
    """

    readings: tuple[int, ...]
    activations: Tensor
    gradients: Tensor
    scores: Tensor
    log_probabilities: Tensor


def probe(
    adapter: Adapter,
    inputs: Inputs,
    layer: str,
    readings: Sequence[Reading],
    image_positions: Tensor,
    settings: SamplerSettings,
    *,
    states_per_forward: int = 8,
    targets_per_backward: int = 1,
) -> Iterator[Probed]:
    """Replay every state that the readings need, once, and differentiate every reading at one layer.

    As `probe_layers`, for a single layer.

    Args:
        adapter: the model; call within `dcam_core.probing.untouched.untouched`.
        inputs: the prepared prompt.
        layer: module path of the probed module; its output (or the first item of it) must be
            [B, n, C] with the whole image-token span within n.
        readings: what to read.
        image_positions: [N] int64, sequence positions of the image tokens to keep.
        settings: guidance, suppressed ids and prefix cache, as during generation.
        states_per_forward: how many different states are replayed in one batch; bounds memory.
        targets_per_backward: how many readings of one state are differentiated in one vectorised backward
            pass; 1 differentiates one after the other, which needs the least memory.

    Yields:
        Results, a batch of states at a time: one that is used up can be freed before the next is made.

    Raises:
        StructuralValidityError: the module's output does not hold the image-token span.
        ReplayError: the module did not take part in the forward pass, or the scalar does not depend on it.
    """
    batches = probe_layers(
        adapter,
        inputs,
        [layer],
        readings,
        image_positions,
        settings,
        states_per_forward=states_per_forward,
        targets_per_backward=targets_per_backward,
    )
    for (probed,) in batches:
        yield probed


def probe_layers(
    adapter: Adapter,
    inputs: Inputs,
    layers: Sequence[str],
    readings: Sequence[Reading],
    image_positions: Tensor,
    settings: SamplerSettings,
    *,
    states_per_forward: int = 8,
    targets_per_backward: int = 1,
    with_graph: bool = False,
    checkpointing: bool = False,
) -> Iterator[tuple[Probed, ...]]:
    """Replay every state that the readings need, once, and differentiate every reading at some layers.

    Args:
        adapter: as in `probe`.
        inputs: as in `probe`.
        layers: L different module paths, in any order.
        readings: as in `probe`.
        image_positions: as in `probe`.
        settings: as in `probe`.
        states_per_forward: as in `probe`.
        targets_per_backward: as in `probe`.
        with_graph: activations and gradients can be differentiated again, with respect to the trainable parameters.
        checkpointing: blocks above the probed modules keep their inputs alone, and are computed anew in backward
            passes; see `dcam_core.probing.checkpointing`.

    Where a batch does not fit into memory, it is halved, and so is what is left: its states first, then the readings
    of a backward pass.

    Yields:
        A batch of states at a time, one result per layer, in their order; all have the same readings, scores and
        log-probabilities.

    Raises:
        StructuralValidityError: as in `probe`.
        ReplayError: as in `probe`.
    """
    together = targets_per_backward

    def probe_states(members: Sequence[Sequence[int]], chunk: int) -> tuple[Probed, ...]:
        with checkpointed(adapter, layers) if checkpointing else nullcontext():
            return _probe_states(
                adapter,
                inputs,
                layers,
                readings,
                members,
                image_positions,
                settings,
                chunk,
                with_graph=with_graph,
            )

    def fitting(members: Sequence[Sequence[int]]) -> tuple[Probed, ...]:
        nonlocal together
        if len(members) > 1:
            return probe_states(members, together)
        found, together = first_that_fits(
            together, lambda chunk: probe_states(members, chunk), "readings of a backward pass"
        )
        return found

    yield from in_chunks(states_apart(readings), states_per_forward, fitting)


def states_of(readings: Sequence[Reading], states_per_forward: int) -> Iterator[list[list[int]]]:
    """Which readings share a state, and which states a forward pass.

    Args:
        readings: what to read.
        states_per_forward: how many different states are replayed in one batch.

    Yields:
        A batch of states at a time: for each, the indices of the readings that are read in it.
    """
    members = states_apart(readings)
    for start in range(0, len(members), states_per_forward):
        yield members[start : start + states_per_forward]


def states_apart(readings: Sequence[Reading]) -> list[list[int]]:
    """For every different state, the indices of the readings that are read in it."""
    # States are shared by value: two words decided at the same step need one forward pass.
    unique: dict[tuple[bytes, int], list[int]] = {}
    for index, reading in enumerate(readings):
        key = (reading.state.numpy().tobytes(), id(reading.conditioning))
        unique.setdefault(key, []).append(index)
    return list(unique.values())


class ReplayedStates:
    """One forward pass over some states, and the rows of its logits that each reading looks at.

    Args:
        decider: decides as during generation.
        readings: all readings.
        members: for each state to replay, the readings that are read in it.
        device: of the model.
    """

    def __init__(
        self,
        decider: Decider,
        readings: Sequence[Reading],
        members: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._readings, self._device = readings, device
        states = torch.stack([readings[group[0]].state for group in members]).to(device)
        conditioning = [readings[group[0]].conditioning for group in members]
        wanted = sorted({p for group in members for i in group for p in _read(readings[i])})
        self._columns = {position: column for column, position in enumerate(wanted)}
        self._logits = decider.logits(states, torch.tensor(wanted, device=device), conditioning)

    def score(self, row: int, index: int) -> tuple[Tensor, Tensor]:
        """The scalar of a reading, and the log-probability of its tokens, without a graph.

        Args:
            row: which of the replayed states.
            index: which reading.
        """
        reading = self._readings[index]
        ids = torch.tensor(reading.token_ids, device=self._device)
        logits = self._logits[row, [self._columns[position] for position in _read(reading)]]
        score = reading.objective.score(logits, ids)
        with torch.no_grad():
            return score, logits[: len(ids)].log_softmax(-1).gather(-1, ids[:, None]).sum()


def _probe_states(
    adapter: Adapter,
    inputs: Inputs,
    layers: Sequence[str],
    readings: Sequence[Reading],
    members: Sequence[Sequence[int]],
    image_positions: Tensor,
    settings: SamplerSettings,
    targets_per_backward: int,
    *,
    with_graph: bool,
) -> tuple[Probed, ...]:
    """One forward pass over the states in `members`, and the backward passes of all their readings."""
    device = inputs.embeddings.device
    decider = Decider(adapter, inputs, settings)
    captures = [_Capture(adapter.model.get_submodule(layer), layer, inputs) for layer in layers]
    with torch.inference_mode(False), torch.enable_grad():
        # With a prefix cache the forward pass that holds the picture is not the one that makes the logits.
        with _all_of(captures):
            cached = decider.prefix is not None
        with _all_of([] if cached else captures):
            replayed = ReplayedStates(decider, readings, members, device)
        outputs = [capture.output for capture in captures]
        rows = len(outputs[0])
        rounds = _rounds(members, shared=rows < len(members))
        order = [index for pairs in rounds for _, index in pairs]
        scores: list[Tensor] = []
        log_probabilities: list[Tensor] = []
        totals = []
        for pairs in rounds:
            own, spoken = zip(*(replayed.score(row, index) for row, index in pairs), strict=True)
            scores += own
            log_probabilities += spoken
            totals.append(torch.stack(own).sum())
        gradients = _differentiate(
            torch.stack(totals), outputs, targets_per_backward, layers, with_graph=with_graph
        )

        if not with_graph:
            outputs = [output.detach() for output in outputs]

    image_positions = image_positions.to(device)
    where = [(turn, row % rows) for turn, pairs in enumerate(rounds) for row, _ in pairs]
    turns, rows_of = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
    return tuple(
        Probed(
            readings=tuple(order),
            # A block that lies on another device leaves its output there.
            activations=output.to(device)[rows_of[:, None], image_positions],
            gradients=gradient.to(device)[turns[:, None], rows_of[:, None], image_positions],
            scores=torch.stack(scores).detach().float(),
            log_probabilities=torch.stack(log_probabilities).float(),
        )
        for output, gradient in zip(outputs, gradients, strict=True)
    )


def _rounds(members: Sequence[Sequence[int]], *, shared: bool) -> list[list[tuple[int, int]]]:
    """(row of the state, reading) of every backward pass.

    Readings of different states do not touch each other's rows of the leaf, so the first reading of every
    state goes into one scalar, the second of every state into the next: few backward passes for many. Where
    all states share one row, every reading needs its own.
    """
    if shared:
        return [[(row, index)] for row, group in enumerate(members) for index in group]
    return [
        [(row, group[turn]) for row, group in enumerate(members) if turn < len(group)]
        for turn in range(max(map(len, members)))
    ]


def _read(reading: Reading) -> tuple[int, ...]:
    """All answer positions that a reading looks at, those of its tokens first."""
    return (*reading.positions, *reading.objective.context)


def _differentiate(
    totals: Tensor, outputs: Sequence[Tensor], chunk: int, layers: Sequence[str], *, with_graph: bool
) -> list[Tensor]:
    """[K, S, n, C] gradients of K scalars with respect to every layer's output, `chunk` scalars at a time."""
    parts: list[Sequence[Tensor | None]] = []
    for start in range(0, len(totals) if totals.requires_grad else 0, chunk):
        part = totals[start : start + chunk]
        keep = with_graph or start + chunk < len(totals)
        further: dict[str, Any] = {"retain_graph": keep, "create_graph": with_graph, "allow_unused": True}
        if len(part) == 1:
            found = torch.autograd.grad(part[0], outputs, **further)
            parts.append([None if gradient is None else gradient[None] for gradient in found])
        else:
            basis = torch.eye(len(part), dtype=part.dtype, device=part.device)
            parts.append(torch.autograd.grad(part, outputs, basis, is_grads_batched=True, **further))
    return [_reached([part[index] for part in parts], layer) for index, layer in enumerate(layers)]


def _reached(parts: Sequence[Tensor | None], layer: str) -> Tensor:
    """[K, S, n, C] gradients of one layer, out of the parts in which they were computed."""
    there = [part for part in parts if part is not None]
    if not there or len(there) < len(parts):
        raise ReplayError(
            f"the target does not depend on the output of {layer!r}: "
            "no gradient reaches it from the logits; probe an earlier layer"
        )
    return torch.cat(there)


def _all_of(captures: Sequence[_Capture]) -> ExitStack:
    """The captures, entered together."""
    stack = ExitStack()
    for capture in captures:
        stack.enter_context(capture)
    return stack


class _Capture:
    """A forward hook that cuts the graph at the probed module and keeps what it put out.

    The module's output is replaced by a copy of a fresh leaf, so that gradients are taken with respect to
    the leaf and the module below it needs no graph. Where a module below is probed too, there is a graph already,
    which must not be cut: gradients have to go on to that leaf. Let through untouched are calls without grad
    mode (the unconditional pass of guidance) and calls whose output does not hold the whole image-token span (they
    are not structurally valid). The hook is removed on exit, whatever happened.
    """

    def __init__(self, module: nn.Module, path: str, inputs: Inputs) -> None:
        self._module, self._path, self._inputs = module, path, inputs
        self._outputs: list[Tensor] = []
        self._refused: list[tuple[int, ...]] = []

    def __enter__(self) -> _Capture:
        self._handle = self._module.register_forward_hook(self._cut)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    @property
    def output(self) -> Tensor:
        """[S, n, C], the captured output.

        Raises:
            StructuralValidityError: no call put out the image-token span.
            ReplayError: the module was not called, or several calls put it out.
        """
        if len(self._outputs) == 1:
            return self._outputs[0]
        if not self._outputs and self._refused:
            _, stop = self._inputs.image_span
            raise StructuralValidityError(
                f"the output of {self._path!r} cannot be probed: it is {list(self._refused[0])}, and the image "
                f"tokens reach up to sequence position {stop - 1}; probe a module whose output is "
                "[batch, sequence, channels] over the whole prompt, such as a transformer block"
            )
        raise ReplayError(
            f"module {self._path!r} was called {len(self._outputs)} times in one replayed denoising step: "
            "probe a module that every step calls exactly once, such as a transformer block"
        )

    def _cut(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        _, stop = self._inputs.image_span
        if hidden.ndim != 3 or hidden.shape[1] < stop:
            self._refused.append(tuple(hidden.shape))
            return None
        kept = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        self._outputs.append(kept)
        # A copy goes on into the network: what follows may write into it in place.
        alias = kept.clone()
        return alias if isinstance(output, Tensor) else (alias, *output[1:])
