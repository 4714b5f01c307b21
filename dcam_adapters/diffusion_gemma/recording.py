"""Watching transformers' own `generate`: what it reads and decides at every step, without touching it.

The text streamer and the logits processors are arguments of `generate`; what these do not hear (the canvas that a
step reads, its self-conditioning) is heard by forward hooks of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
)

from dcam_adapters.diffusion_gemma.commits import commit_steps
from dcam_adapters.diffusion_gemma.settings import BlockDiffusionSettings
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.stopping import first_stop
from dcam_core.denoising.trajectory import NEVER_COMMITTED, Trajectory

__all__ = ["CanvasConditioning", "Recorder"]


@dataclass(frozen=True, eq=False)
class CanvasConditioning:
    """What a step was handed by the step before: the embeddings that it expected at every position.

    The model computes them from the logits. Kept are the embeddings, in the same precision: with 262144 logits per
    position, those of a whole run would not fit into memory.

    Attributes:
        canvas: number of the canvas, from 0.
        embeddings: [K, D] on the CPU.
    """

    canvas: int
    embeddings: Tensor


class Recorder(BaseStreamer, LogitsProcessor):
    """Listens to one `generate` of one prompt.

    Args:
        decoder: the model's canvas decoder.
        settings: settings of the run.
        noise: [G] int64 on the CPU, what stands in canvases that are not begun yet.
        vocabulary: number of token ids.
        on_step: called after every step.
    """

    def __init__(
        self,
        decoder: nn.Module,
        settings: BlockDiffusionSettings,
        noise: Tensor,
        vocabulary: int,
        on_step: Callable[[DenoisingStep], None] | None,
    ) -> None:
        self._decoder, self._settings, self._on_step = decoder, settings, on_step
        # Which positions are accepted follows from the logits alone: asked again, the sampler says the same.
        self._sampler: Any = EntropyBoundSampler(
            EntropyBoundSamplerConfig(settings.entropy_bound),
            settings.canvas_length,
            vocabulary,
            settings.steps_per_canvas,
        )
        self._temperature: Any = LinearTemperatureScheduleLogitsProcessor(
            settings.t_min, settings.t_max, settings.steps_per_canvas
        )
        self._answer = noise.clone()
        self._states: list[Tensor] = []
        self._conditioning: list[CanvasConditioning | None] = []
        self._steps: list[_Step] = []
        self._canvases = 0
        self._prompt_heard = False
        self._logits: Tensor | None = None
        self._accepted = torch.empty(0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears the decoder's calls within the block."""
        handles = [
            self._decoder.register_forward_pre_hook(self._hear_canvas, with_kwargs=True),
            self._decoder.get_submodule("self_conditioning").register_forward_pre_hook(
                self._hear_conditioning
            ),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # -- what `generate` says, in the order in which it does ----------------------------------------------------

    def _hear_canvas(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A step begins: the canvas that it reads is what the step before left."""
        canvas = kwargs["decoder_input_ids"][0].cpu()
        state = self._answer.clone()
        state[self._window] = canvas
        if self._logits is not None:
            self._close(canvas, self._accepted)
        if self._steps:
            self._tell(state)
        self._states.append(state)

    def _hear_conditioning(self, module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        """What the step reads beside the canvas; zeros at the first step of a canvas."""
        is_first = not self._steps or self._steps[-1].canvas < self._canvases
        self._conditioning.append(
            None if is_first else CanvasConditioning(self._canvases, args[1][0].detach().cpu())
        )

    def __call__(self, input_ids: Tensor, scores: Tensor, cur_step: Tensor) -> Tensor:
        """The step's logits [1, K, V], before temperature; `cur_step` is the number of steps that remain."""
        self._logits = scores[0]
        processed = self._temperature(input_ids, scores, cur_step)
        nowhere = torch.zeros(scores.shape[:2], dtype=torch.int64, device=scores.device)
        self._sampler.accept_canvas(nowhere, nowhere, processed, cur_step)
        self._accepted = self._sampler.accepted_token_mask[0].cpu()
        return scores

    def put(self, value: Tensor) -> None:
        """The prompt, and after that every finished canvas [1, K]."""
        if not self._prompt_heard:
            self._prompt_heard = True
            return
        canvas = value[0].cpu()
        self._answer[self._window] = canvas
        self._close(canvas, torch.ones(len(canvas), dtype=torch.bool))
        self._canvases += 1

    def end(self) -> None:
        """All canvases are written."""
        self._tell(self._answer)
        self._states.append(self._answer)

    # -- the record ------------------------------------------------------------------------------------------

    @property
    def _window(self) -> slice:
        """Answer positions of the canvas that is being written."""
        start = self._canvases * self._settings.canvas_length
        return slice(start, start + self._settings.canvas_length)

    def _close(self, tokens: Tensor, accepted: Tensor) -> None:
        """A step ends: these tokens stand now."""
        if self._logits is None:
            raise RuntimeError("generate finished a step without handing its logits to the logits processors")
        chosen = self._logits.gather(-1, tokens.to(self._logits.device)[:, None])[:, 0].float()
        likely = (chosen - self._logits.float().logsumexp(-1)).exp()
        self._steps.append(_Step(self._canvases, tokens, accepted, chosen.cpu(), likely.cpu()))
        self._logits = None

    def _tell(self, state: Tensor) -> None:
        """Tells the observer of the step that ended last."""
        if self._on_step is None:
            return
        index, step, total = len(self._steps) - 1, self._steps[-1], self._settings.total_steps
        accepted = step.canvas * self._settings.canvas_length + step.accepted.nonzero()[:, 0]
        self._on_step(DenoisingStep(index, max(total, index + 1), state.clone(), accepted))

    def trajectory(self) -> Trajectory:
        """The record of the whole run."""
        length = self._settings.canvas_length
        commits = torch.full_like(self._answer, NEVER_COMMITTED)
        logits = torch.full(commits.shape, torch.nan)
        probabilities = logits.clone()
        first = 0
        for canvas in range(self._canvases):
            own = [step for step in self._steps if step.canvas == canvas]
            decided = commit_steps(
                torch.stack([step.tokens for step in own]), torch.stack([step.accepted for step in own])
            )
            where, column = slice(canvas * length, (canvas + 1) * length), torch.arange(length)
            commits[where] = first + decided
            logits[where] = torch.stack([step.logits for step in own])[decided, column]
            probabilities[where] = torch.stack([step.probabilities for step in own])[decided, column]
            first += len(own)
        starts = length * torch.tensor([step.canvas for step in self._steps])
        written = self._canvases * length
        stop = first_stop(self._answer[:written], self._settings.stop_sequences)
        return Trajectory(
            states=torch.stack(self._states),
            commit_steps=commits,
            commit_logits=logits,
            commit_probabilities=probabilities,
            answer_length=written if stop is None else stop,
            settings=self._settings,
            conditioning=tuple(self._conditioning),
            windows=torch.stack([starts, starts + length], -1),
        )


@dataclass(frozen=True, eq=False)
class _Step:
    """What stood after a step, [K] each: token, whether it was accepted, its logit and probability at this step."""

    canvas: int
    tokens: Tensor
    accepted: Tensor
    logits: Tensor
    probabilities: Tensor
