"""The probe: replay decided states once, and read activations and gradients at the image tokens.

For a target decided at state s, the scalar S (a function of the logits at its positions) is differentiated
with respect to F, the output of the probed module. Only what must be computed is computed: the part of the
network below the probed module runs without a graph, logits are formed at the positions that are read, and
targets that share a state share its forward pass. Several layers are read in one pass forth and one back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ReplayError
from dcam_core.probing.capturing import Capture, replay_captured
from dcam_core.probing.checkpointing import checkpointed
from dcam_core.probing.fitting import ChunkSize
from dcam_core.probing.offloading import offloaded
from dcam_core.probing.replayed import states_apart

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs
    from dcam_core.probing.replayed import Reading

__all__ = ["Probed", "probe", "probe_layers"]


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
    offload: torch.device | None = None,
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
        offload: where the graph is kept from the forward pass to the backward passes; None: where it was made. See
            `dcam_core.probing.offloading`.

    Where a batch does not fit into memory, it is halved, and so is what is left: its states first, then the readings
    of a backward pass.

    Yields:
        A batch of states at a time, one result per layer, in their order; all have the same readings, scores and
        log-probabilities.

    Raises:
        StructuralValidityError: as in `probe`.
        ReplayError: as in `probe`.
    """
    together = ChunkSize(targets_per_backward, "readings of a backward pass")

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
                offload=offload,
            )

    def fitting(members: Sequence[Sequence[int]]) -> tuple[Probed, ...]:
        if len(members) > 1:
            return probe_states(members, together.size)
        return together.fitting(lambda chunk: probe_states(members, chunk))

    yield from ChunkSize(states_per_forward).over(states_apart(readings), fitting)


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
    offload: torch.device | None,
) -> tuple[Probed, ...]:
    """One forward pass over the states in `members`, and the backward passes of all their readings."""
    device = inputs.embeddings.device
    decider = Decider(adapter, inputs, settings)
    captures = [Capture(layer, adapter.model.get_submodule(layer), inputs) for layer in layers]
    with torch.inference_mode(False), torch.enable_grad():
        with offloaded(adapter.model, offload):
            replayed = replay_captured(captures, decider, readings, members, device)
        outputs = [capture.output for capture in captures]
        rows = len(outputs[0])
        rounds = _rounds(members, shared=rows < len(members))
        order = [index for pairs in rounds for _, index in pairs]
        scores: list[Tensor] = []
        log_probabilities: list[Tensor] = []
        totals = []
        for pairs in rounds:
            own = [replayed.score(row, index) for row, index in pairs]
            scores += own
            log_probabilities += [replayed.log_probability(row, index) for row, index in pairs]
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
