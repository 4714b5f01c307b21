"""The settings of block diffusion with an entropy bound."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import ConfigurationError

__all__ = ["BlockDiffusionSettings"]


@dataclass(frozen=True)
class BlockDiffusionSettings(SamplerSettings):
    """How the answer is denoised. Tokens are always drawn at random, from `seed`.

    Of the settings that all families have, `answer_length` (a multiple of the canvas), `suppressed_ids` (at every
    position), `stop_sequences` (no canvas begins behind one) and `seed` mean something here. `block_length` is the
    length of a canvas, which the model fixes.

    Attributes:
        steps_per_canvas: denoising steps of a canvas at most; it ends early when it is stable and confident.
        entropy_bound: the positions of least entropy are accepted as long as the entropies of those before them, in
            nats, sum to at most this; larger accepts more tokens at a step.
        t_min: temperature that the last step would have; the temperature falls from step to step in equal strides.
        t_max: temperature of the first step.
        stability_threshold: for how many steps the most probable canvas must not have changed.
        confidence_threshold: what the mean entropy over the canvas must be below, in nats.
    """

    cache: str | None = "prefix"
    steps_per_canvas: int = 48
    entropy_bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    stability_threshold: int = 1
    confidence_threshold: float = 0.005

    unused: ClassVar[frozenset[str]] = frozenset(
        {
            *("steps", "step_ratio", "block_length", "draft_ids", "schedule", "shift", "remasking"),
            *("temperature", "top_k", "top_p", "guidance_scale"),
            *("prompt_interval", "answer_interval", "transfer_ratio"),
        }
    )

    def __post_init__(self) -> None:
        if self.cache != "prefix":
            raise ConfigurationError(
                f"sampler.cache is {self.cache!r}: this model reads its prompt once and apart from the answer, "
                "which is the 'prefix' cache; leave the setting out"
            )
        if self.answer_length % self.canvas_length != 0 or self.answer_length < 1:
            raise ConfigurationError(
                f"sampler.answer_length is {self.answer_length}: this model writes canvases of "
                f"{self.canvas_length} tokens, choose a multiple of it"
            )
        if self.steps_per_canvas < 1 or self.stability_threshold < 0:
            raise ConfigurationError(
                f"sampler.steps_per_canvas is {self.steps_per_canvas}, sampler.stability_threshold "
                f"{self.stability_threshold}: give at least 1 step, and a threshold of 0 or more"
            )
        if min(self.entropy_bound, self.confidence_threshold) <= 0 or not 0 < self.t_min < self.t_max:
            raise ConfigurationError(
                f"sampler.entropy_bound is {self.entropy_bound}, sampler.confidence_threshold "
                f"{self.confidence_threshold}, sampler.t_min {self.t_min}, sampler.t_max {self.t_max}: all must be "
                "above 0, and t_max above t_min"
            )
        super().__post_init__()

    @classmethod
    def published(cls, generation: Any, canvas_length: int) -> Self:
        """The settings of a generation_config.json.

        Args:
            generation: transformers' `DiffusionGemmaGenerationConfig`; what it leaves open is as in the class.
            canvas_length: tokens of a canvas.
        """
        wanted = int(generation.max_new_tokens or canvas_length)
        named = {
            name: getattr(generation, name)
            for name in ("t_min", "t_max", "stability_threshold", "confidence_threshold")
        }
        named["steps_per_canvas"] = generation.max_denoising_steps
        named["entropy_bound"] = getattr(generation.sampler_config, "entropy_bound", None)
        ends = generation.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list | tuple) else [ends]
        settings = cls(
            # Whole canvases, as many as hold what is wanted.
            answer_length=canvas_length * math.ceil(wanted / canvas_length),
            block_length=canvas_length,
            stop_sequences=tuple((int(end),) for end in ends),
        )
        return settings.merged(named)

    @property
    def canvas_length(self) -> int:
        """Tokens of a canvas."""
        return self.answer_length if self.block_length is None else self.block_length

    @property
    def steps_per_block(self) -> int:
        """Denoising steps of a canvas at most."""
        return self.steps_per_canvas

    def shortened(self, length: int) -> Self:
        """As few canvases as hold `length` tokens, with one step per token at most."""
        canvases = math.ceil(length / self.canvas_length)
        return dataclasses.replace(
            self,
            answer_length=canvases * self.canvas_length,
            steps_per_canvas=min(self.steps_per_canvas, length),
        )
