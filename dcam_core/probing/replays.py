"""The run as an attribution that asks the model itself gets it: what to read, where the picture is, and the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcam_core.denoising.decision import Decider
from dcam_core.errors import ConfigurationError
from dcam_core.probing.fitting import in_chunks
from dcam_core.probing.probe import Probed, ReplayedStates, probe_layers, states_apart, states_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.picture_grid import PictureGrid
    from dcam_core.probing.probe import Reading

__all__ = ["Replays"]


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
                scores, _ = self._read(prompt)
            yield scores

    def log_probabilities(self) -> tuple[Tensor, Tensor]:
        """[R] scalars and [R] summed log-probabilities of the readings' tokens, as the model read the prompt."""
        with torch.no_grad():
            return self._read(self.inputs)

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
        )

    def input_gradients(self) -> Iterator[tuple[int, Tensor]]:
        """Gradients of the scalars with respect to the embeddings of the image tokens.

        Yields:
            The index of a reading and its [N, D], in some order: all of them at once may not fit into memory.
        """
        for members in states_of(self.readings, self.states_per_forward):
            with torch.inference_mode(False), torch.enable_grad():
                leaf = self.inputs.embeddings.detach().clone().requires_grad_()
                replayed = self._replayed(replace(self.inputs, embeddings=leaf), members)
            pairs = [(row, index) for row, group in enumerate(members) for index in group]
            for turn, (row, index) in enumerate(pairs, start=1):
                with torch.inference_mode(False), torch.enable_grad():
                    score, _ = replayed.score(row, index)
                    (gradient,) = torch.autograd.grad(score, leaf, retain_graph=turn < len(pairs))
                yield index, gradient[0, self.positions]

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

        found = [torch.empty(0)] * len(self.readings)
        with torch.no_grad():
            for members in states_of(self.readings, self.states_per_forward):
                hidden = self._image_rows(norm, members)
                # A vocabulary is large: one state and a few tokens at a time.
                logits = [torch.cat([lens(rows) for rows in state.split(256)]) for state in hidden]
                for row, group in enumerate(members):
                    for index in group:
                        found[index] = logits[row % len(logits)]
        return torch.stack(found)

    def answer_logits(self) -> Tensor:
        """[A, V] float32, what the model says at the A positions of the finished answer, without a graph."""
        trajectory = self.trajectory
        positions = torch.arange(trajectory.answer_length, device=self.device)
        with torch.no_grad():
            decider = Decider(self.adapter, self.inputs, trajectory.settings)
            return decider.logits(trajectory.final[None].to(self.device), positions)[0]

    # -- helpers ---------------------------------------------------------------------------------------------

    def _replayed(self, prompt: Inputs, members: Sequence[Sequence[int]]) -> ReplayedStates:
        decider = Decider(self.adapter, prompt, self.trajectory.settings)
        return ReplayedStates(decider, self.readings, members, self.device)

    def _read(self, prompt: Inputs) -> tuple[Tensor, Tensor]:
        if prompt.prompt_length != self.inputs.prompt_length:
            raise ConfigurationError(
                f"a prompt of {prompt.prompt_length} positions cannot stand in place of one of "
                f"{self.inputs.prompt_length}: the pictures must have the same sizes, and the prompt must be text"
            )
        found = torch.zeros(2, len(self.readings))
        decider = Decider(self.adapter, prompt, self.trajectory.settings)

        def read(members: Sequence[Sequence[int]]) -> None:
            replayed = ReplayedStates(decider, self.readings, members, self.device)
            for row, group in enumerate(members):
                for index in group:
                    found[:, index] = torch.stack(replayed.score(row, index)).float().cpu()

        for _ in in_chunks(states_apart(self.readings), self.states_per_forward, read):
            pass
        return found[0], found[1]

    def _image_rows(self, module: torch.nn.Module, members: Sequence[Sequence[int]]) -> Tensor:
        """[S, N, D], a module's output at the image tokens; S is 1 where the prompt is read once for all states."""
        _, stop = self.inputs.image_span
        outputs: list[Tensor] = []

        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            rows = _first(output)
            # Guidance reads the prompt a second time, without the picture.
            if not outputs and rows.ndim == 3 and rows.shape[1] >= stop:
                # A block that lies on another device may leave its output there.
                outputs.append(rows.to(self.device)[:, self.positions])

        with ExitStack() as stack:
            stack.callback(module.register_forward_hook(keep).remove)
            self._replayed(self.inputs, members)
        return outputs[0]


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
