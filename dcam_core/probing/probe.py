"""The probe: replay decided states once, and read activations and gradients at the image tokens.

For a target decided at state s, the scalar S (a function of the logits at its positions) is differentiated
with respect to F, the output of the probed module. Only what must be computed is computed: the part of the
network below the probed module runs without a graph, logits are formed at the positions that are read, and
targets that share a state share its forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ReplayError, StructuralValidityError

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs
    from dcam_core.probing.gradient_targets import GradientTarget

__all__ = ["Probed", "Reading", "probe"]


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
    """What the probe read, for R readings at once.

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
    """Replay every state that the readings need, once, and differentiate every reading.

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
    # States are shared by value: two words decided at the same step need one forward pass.
    unique: dict[tuple[bytes, int], int] = {}
    members: list[list[int]] = []
    for index, reading in enumerate(readings):
        key = (reading.state.numpy().tobytes(), id(reading.conditioning))
        slot = unique.setdefault(key, len(unique))
        if slot == len(members):
            members.append([])
        members[slot].append(index)

    for start in range(0, len(members), states_per_forward):
        batch = members[start : start + states_per_forward]
        yield _probe_states(
            adapter, inputs, layer, readings, batch, image_positions, settings, targets_per_backward
        )


def _probe_states(
    adapter: Adapter,
    inputs: Inputs,
    layer: str,
    readings: Sequence[Reading],
    members: Sequence[Sequence[int]],
    image_positions: Tensor,
    settings: SamplerSettings,
    targets_per_backward: int,
) -> Probed:
    """One forward pass over the states in `members`, and the backward passes of all their readings."""
    device = inputs.embeddings.device
    states = torch.stack([readings[group[0]].state for group in members]).to(device)
    conditioning = [readings[group[0]].conditioning for group in members]
    wanted = sorted({p for group in members for i in group for p in _read(readings[i])})
    columns = {position: column for column, position in enumerate(wanted)}

    decider = Decider(adapter, inputs, settings)
    capture = _Capture(adapter.model.get_submodule(layer), layer, inputs)
    with torch.inference_mode(False), torch.enable_grad():
        # With a prefix cache the forward pass that holds the picture is not the one that makes the logits.
        with capture:
            cached = decider.prefix is not None
        with nullcontext() if cached else capture:
            logits = decider.logits(states, torch.tensor(wanted, device=device), conditioning)
        leaf = capture.leaf
        rounds = _rounds(members, shared=len(leaf) < len(members))
        order = [index for pairs in rounds for _, index in pairs]
        scores, log_probabilities, totals = [], [], []
        for pairs in rounds:
            own = []
            for row, index in pairs:
                reading = readings[index]
                ids = torch.tensor(reading.token_ids, device=device)
                rows = logits[row, [columns[position] for position in _read(reading)]]
                own.append(reading.objective.score(rows, ids))
                with torch.no_grad():
                    spoken = rows[: len(ids)].log_softmax(-1).gather(-1, ids[:, None])
                    log_probabilities.append(spoken.sum())
            scores += own
            totals.append(torch.stack(own).sum())
        gradients = _differentiate(torch.stack(totals), leaf, targets_per_backward, layer)

    image_positions = image_positions.to(device)
    where = [(turn, row % len(leaf)) for turn, pairs in enumerate(rounds) for row, _ in pairs]
    turns, rows_of = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
    return Probed(
        readings=tuple(order),
        # A block that lies on another device leaves its output there.
        activations=leaf.detach().to(device)[rows_of[:, None], image_positions],
        gradients=gradients.to(device)[turns[:, None], rows_of[:, None], image_positions],
        scores=torch.stack(scores).detach().float(),
        log_probabilities=torch.stack(log_probabilities).float(),
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


def _differentiate(totals: Tensor, leaf: Tensor, chunk: int, layer: str) -> Tensor:
    """[K, S, n, C] gradients of K scalars with respect to the leaf, `chunk` scalars at a time."""
    unreached = ReplayError(
        f"the target does not depend on the output of {layer!r}: "
        "no gradient reaches it from the logits; probe an earlier layer"
    )
    if not totals.requires_grad:
        raise unreached
    parts = []
    for start in range(0, len(totals), chunk):
        part = totals[start : start + chunk]
        last = start + chunk >= len(totals)
        if len(part) == 1:
            (gradient,) = torch.autograd.grad(part[0], leaf, retain_graph=not last, allow_unused=True)
            gradient = None if gradient is None else gradient[None]
        else:
            basis = torch.eye(len(part), dtype=part.dtype, device=part.device)
            (gradient,) = torch.autograd.grad(
                part, leaf, basis, retain_graph=not last, is_grads_batched=True, allow_unused=True
            )
        if gradient is None:
            raise unreached
        parts.append(gradient)
    return torch.cat(parts)


class _Capture:
    """A forward hook that cuts the graph at the probed module and keeps what it put out.

    The module's output is replaced by a copy of a fresh leaf, so that gradients are taken with respect to
    the leaf and the module below it needs no graph. Let through untouched are calls without grad mode (the
    unconditional pass of guidance) and calls whose output does not hold the whole image-token span (they are
    not structurally valid). The hook is removed on exit, whatever happened.
    """

    def __init__(self, module: nn.Module, path: str, inputs: Inputs) -> None:
        self._module, self._path, self._inputs = module, path, inputs
        self._leaves: list[Tensor] = []
        self._refused: list[tuple[int, ...]] = []

    def __enter__(self) -> _Capture:
        self._handle = self._module.register_forward_hook(self._cut)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    @property
    def leaf(self) -> Tensor:
        """[S, n, C], the captured output.

        Raises:
            StructuralValidityError: no call put out the image-token span.
            ReplayError: the module was not called, or several calls put it out.
        """
        if len(self._leaves) == 1:
            return self._leaves[0]
        if not self._leaves and self._refused:
            _, stop = self._inputs.image_span
            raise StructuralValidityError(
                f"the output of {self._path!r} cannot be probed: it is {list(self._refused[0])}, and the image "
                f"tokens reach up to sequence position {stop - 1}; probe a module whose output is "
                "[batch, sequence, channels] over the whole prompt, such as a transformer block"
            )
        raise ReplayError(
            f"module {self._path!r} was called {len(self._leaves)} times in one replayed denoising step: "
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
        leaf = hidden.detach().requires_grad_()
        self._leaves.append(leaf)
        # A copy goes on into the network: what follows may write into it in place.
        alias = leaf.clone()
        return alias if isinstance(output, Tensor) else (alias, *output[1:])
