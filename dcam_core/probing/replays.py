"""The run as an attribution that asks the model itself gets it: what to read, where the picture is, and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ConfigurationError
from dcam_core.probing.capturing import Capture, replay_captured
from dcam_core.probing.checkpointing import checkpointed
from dcam_core.probing.fitting import ChunkSize
from dcam_core.probing.offloading import offloaded
from dcam_core.probing.probe import Probed, probe_layers
from dcam_core.probing.replayed import ReplayedStates, StateReader, states_apart

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.picture_grid import PictureGrid
    from dcam_core.probing.replayed import Reading

__all__ = ["Replays"]

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Replays:
    """Everything that a `ModelAttribution` is given.

    Attributes:
        adapter: the model, frozen and in evaluation mode.
        inputs: the prepared prompt.
        trajectory: the recorded run.
        readings: R readings; each says in which state of the answer which tokens are read, and what their scalar is.
        grids: one per picture of the prompt: its rows and columns, and how image tokens lie on it.
        layers: module paths that the method names.
        pictures: the pictures of the prompt, RGB; empty where the caller has none.
        states_per_forward: how many states share a forward pass.
        targets_per_backward: how many readings of a state share a backward pass.
        with_graph: what is probed can be differentiated again; see `dcam_core.probing.differentiable`.
        checkpointing: blocks above the probed modules are computed anew in backward passes; see
            `dcam_core.probing.checkpointing`.
        offload: where graphs are kept from a forward pass to its backward passes, and whatever else there is much of;
            None: where it was made. See `dcam_core.probing.offloading`.
    """

    adapter: Adapter
    inputs: Inputs
    trajectory: Trajectory
    readings: Sequence[Reading]
    grids: Sequence[PictureGrid]
    layers: Sequence[str]
    pictures: Sequence[Image] = ()
    states_per_forward: int = field(default=8, kw_only=True)
    targets_per_backward: int = field(default=1, kw_only=True)
    with_graph: bool = field(default=False, kw_only=True)
    checkpointing: bool = field(default=False, kw_only=True)
    offload: torch.device | None = field(default=None, kw_only=True)

    @cached_property
    def positions(self) -> Tensor:
        """[N] int64, sequence positions of the image tokens, picture after picture: the columns of the evidence."""
        return torch.cat([grid.positions for grid in self.grids]).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the prompt lies."""
        return self.inputs.embeddings.device

    # -- what the model says ---------------------------------------------------------------------------------

    def scores(self, prompts: Iterable[Inputs]) -> Iterator[Tensor]:
        """The scalars of all readings with other prompts in place of the run's: a part of a picture covered, say.

        Args:
            prompts: prompts of the same length; `inputs` itself gives the scalars of the run.

        Yields:
            [R] float32 per prompt, without a graph.
        """
        for prompt in prompts:
            # Left before the yield: the caller's grad mode is the caller's.
            with torch.no_grad():
                (scores,) = self._reader.read(self._in_place(prompt), ReplayedStates.score)
            yield scores

    def log_probabilities(self) -> tuple[Tensor, Tensor]:
        """[R] scalars and [R] summed log-probabilities of the readings' tokens, as the model read the prompt."""
        with torch.no_grad():
            found = self._reader.read(self.inputs, ReplayedStates.score, ReplayedStates.log_probability)
        return found[0], found[1]

    def probe(self) -> tuple[Probed, ...]:
        """Activations and gradients at the image tokens, as an `Attribution` gets them.

        Returns:
            One per layer, all readings in their order: `replace(replays, readings=...)` asks for some of them.
        """
        return tuple(_in_order(parts) for parts in zip(*self.probed(), strict=True))

    def probed(self) -> Iterator[tuple[Probed, ...]]:
        """The same in batches of states, each with one `Probed` per layer: one at a time need be in memory."""
        return probe_layers(
            self.adapter,
            self.inputs,
            self.layers,
            self.readings,
            self.positions,
            self.trajectory.settings,
            states_per_forward=self.states_per_forward,
            targets_per_backward=self.targets_per_backward,
            with_graph=self.with_graph,
            checkpointing=self.checkpointing,
            offload=self.offload,
        )

    def activations(self) -> tuple[Tensor, ...]:
        """What `probe` gives of activations, without a graph and a backward pass: one [R, N, C] per layer."""
        modules = {layer: self.adapter.model.get_submodule(layer) for layer in self.layers}

        def capture(members: Sequence[Sequence[int]]) -> dict[int, tuple[Tensor, ...]]:
            return _by_reading(list(zip(*self._captured(modules, members), strict=True)), members)

        return tuple(torch.stack(parts) for parts in zip(*self.of_each(capture), strict=True))

    def input_gradients(self) -> Iterator[tuple[int, Tensor]]:
        """Gradients of the scalars with respect to the embeddings of the image tokens.

        Yields:
            The index of a reading and its [N, D], in some order, those of one forward pass after the other: all of
            them at once may not fit into memory.
        """
        for chunk in self._over_states(self._input_gradients):
            yield from chunk

    def of_each(self, work: Callable[[Sequence[Sequence[int]]], Mapping[int, R]]) -> list[R]:
        """What is made of the readings, in their order, by a function that makes it of those of some states.

        Args:
            work: is given, for each state of a forward pass, the indices of the readings that are read in it; gives
                what it made under these indices. Leaves nothing behind where it fails: where memory runs out it is
                called again with fewer states.
        """
        found = {index: made for chunk in self._over_states(work) for index, made in chunk.items()}
        return [found[index] for index in range(len(self.readings))]

    @contextmanager
    def with_gradients(
        self, members: Sequence[Sequence[int]], settings: SamplerSettings | None = None
    ) -> Iterator[tuple[Tensor, ReplayedStates]]:
        """Some states, replayed with a graph down to the prompt's embeddings; the body runs in grad mode.

        Args:
            members: for each state, the indices of the readings that are read in it.
            settings: of the replay; None: those of the run.

        Yields:
            The embeddings, [1, P, D], a leaf of the graph; and the replayed states, whose scores can be
            differentiated.
        """
        with (
            checkpointed(self.adapter, ()) if self.checkpointing else nullcontext(),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            leaf = self.inputs.embeddings.detach().clone().requires_grad_()
            prompt = replace(self.inputs, embeddings=leaf)
            decider = Decider(self.adapter, prompt, settings or self.trajectory.settings)
            with offloaded(self.adapter.model, self.offload):
                replayed = ReplayedStates(decider, self.readings, members, self.device)
            yield leaf, replayed

    def image_logits(self, ids: Tensor) -> Tensor:
        """What the model would say at the image tokens: the logit lens on its last hidden states.

        The final norm's output, in the forward pass that holds the picture, is handed to the head. Where the adapter
        names no final norm, it is the last block's. Either may lie on another device than the prompt.

        Args:
            ids: [K] int64, the tokens to ask for.

        Returns:
            [R, N, K] float32 on the prompt's device, without a graph.

        Raises:
            ConfigurationError: the adapter does not name the module that makes logits.
        """
        modules = self.adapter.parity_modules
        if "logits" not in modules:
            raise ConfigurationError(
                f"adapter {self.adapter.family!r} does not say which module makes logits: its `parity_modules` must "
                "name it for a logit lens; choose another attribution"
            )
        head, norm = modules["logits"], modules.get("final_norm", self.adapter.blocks[-1])
        head = self.adapter.model.get_submodule(head) if isinstance(head, str) else head
        norm = self.adapter.model.get_submodule(norm) if isinstance(norm, str) else norm

        def lens(rows: Tensor) -> Tensor:
            logits = _first(head(rows[None]))[0]
            return logits[:, ids.to(logits.device)].to(self.device).float()

        def read(members: Sequence[Sequence[int]]) -> dict[int, Tensor]:
            (hidden,) = self._captured({"final_norm": norm}, members)
            # A vocabulary is large: one state and a few tokens at a time.
            return _by_reading(
                [torch.cat([lens(rows) for rows in state.split(256)]) for state in hidden], members
            )

        with torch.no_grad():
            return torch.stack(self.of_each(read))

    def answer_logits(self) -> Tensor:
        """[A, V] float32, what the model says at the A positions of the finished answer, without a graph."""
        trajectory = self.trajectory
        positions = torch.arange(trajectory.answer_length, device=self.device)
        with torch.no_grad():
            decider = Decider(self.adapter, self.inputs, trajectory.settings)
            return decider.logits(trajectory.final[None].to(self.device), positions)[0]

    # -- helpers ---------------------------------------------------------------------------------------------

    @cached_property
    def _reader(self) -> StateReader:
        settings = self.trajectory.settings
        return StateReader(self.adapter, self.readings, settings, self.states_per_forward)

    def _in_place(self, prompt: Inputs) -> Inputs:
        """A prompt that can stand in place of the run's."""
        if prompt.prompt_length != self.inputs.prompt_length:
            raise ConfigurationError(
                f"a prompt of {prompt.prompt_length} positions cannot stand in place of one of "
                f"{self.inputs.prompt_length}: the pictures must have the same sizes, and the prompt must be text"
            )
        return prompt

    def _over_states(self, work: Callable[[Sequence[Sequence[int]]], R]) -> Iterator[R]:
        """What is made of the states, a forward pass after the other; of each, the readings in it are given."""
        return ChunkSize(self.states_per_forward).over(states_apart(self.readings), work)

    def _captured(self, modules: Mapping[str, nn.Module], members: Sequence[Sequence[int]]) -> list[Tensor]:
        """One [S, N, C] per module, its outputs at the image tokens; S is 1 where states share the prompt's rows."""
        captures = [Capture(*named, self.inputs, differentiable=False) for named in modules.items()]
        decider = Decider(self.adapter, self.inputs, self.trajectory.settings)
        # Nothing requires a gradient, so there is no graph; but in grad mode the picture's pass is told from others.
        with torch.inference_mode(False), torch.enable_grad():
            replay_captured(captures, decider, self.readings, members, self.device)
        # A block that lies on another device leaves its output there.
        return [capture.output.to(self.device)[:, self.positions] for capture in captures]

    def _input_gradients(self, members: Sequence[Sequence[int]]) -> list[tuple[int, Tensor]]:
        """Those of the readings of some states."""
        found = []
        with self.with_gradients(members) as (leaf, replayed):
            for turn, (row, index) in enumerate(replayed.pairs, start=1):
                score = replayed.score(row, index)
                (gradient,) = torch.autograd.grad(score, leaf, retain_graph=turn < len(replayed.pairs))
                found.append((index, gradient[0, self.positions]))
        return found


def _by_reading(rows: Sequence[R], members: Sequence[Sequence[int]]) -> dict[int, R]:
    """What was made of states, for each of the readings in them; a single row is that of all states."""
    return {index: rows[row % len(rows)] for row, group in enumerate(members) for index in group}


def _first(output: Any) -> Tensor:
    """The tensor that a module put out, alone or before others."""
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor


def _in_order(parts: Sequence[Probed]) -> Probed:
    """Batches of one layer as one, in the order of the readings."""
    order = [index for part in parts for index in part.readings]
    back = torch.tensor(order).argsort().tolist()
    return Probed(
        tuple(order[i] for i in back),
        *(
            torch.cat([getattr(part, name) for part in parts])[back]
            for name in ("activations", "gradients", "scores", "log_probabilities")
        ),
    )
