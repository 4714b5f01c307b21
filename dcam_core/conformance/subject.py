"""The adapter under examination, with what several checks need of it, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from dcam_core.conformance.check import NotApplicableError
from dcam_core.conformance.pictures import scene, shapes
from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.probe import Probed, probe
from dcam_core.probing.replayed import Reading
from dcam_core.probing.untouched import untouched

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager

__all__ = ["DEFAULT_PROMPT", "LONGEST_ANSWER", "Subject"]

DEFAULT_PROMPT = "describe the picture"

LONGEST_ANSWER = 32
"""Answer regions that are longer by default are cut to half of this many positions: what holds for some steps
holds for more of them."""


@dataclass(eq=False)
class Subject:
    """An adapter, and what it is asked.

    Attributes:
        adapter: the adapter under examination, its model in evaluation mode.
        picture: the picture of the checks that run the model; None: a generated one.
        prompt: what is asked about it.
        prompt_ids: [1, n] int64, the prompt as `Adapter.prepare_ids` takes it; for a model without tokenizer. In
            place of `prompt`.
        manager: the installed plugins, for the check of the whole engine; None: those that
            `dcam_core.default_manager` found.
    """

    adapter: Adapter
    picture: Image.Image | None = None
    prompt: str = DEFAULT_PROMPT
    prompt_ids: Tensor | None = None
    manager: PluginManager | None = None

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Name -> (width, height) of the generated pictures whose layout is examined."""
        return shapes(self.adapter.image_size)

    @cached_property
    def shown(self) -> Image.Image:
        """The picture of the checks that run the model."""
        side = self.adapter.image_size
        return scene((side, side - side // 4)) if self.picture is None else self.picture

    def prepare(self, picture: Image.Image) -> Inputs:
        """Prepare the prompt with a picture, as the engine does."""
        with torch.inference_mode(False), torch.no_grad():
            if self.prompt_ids is not None:
                return self.adapter.prepare_ids(picture, self.prompt_ids)
            return self.adapter.prepare(picture, self.prompt)

    @cached_property
    def inputs(self) -> Inputs:
        """The prompt with the picture that is shown."""
        return self.prepare(self.shown)

    @cached_property
    def settings(self) -> SamplerSettings:
        """The family's own sampler settings, for an answer of at most `LONGEST_ANSWER` positions."""
        settings = self.adapter.default_sampler
        if settings.answer_length <= LONGEST_ANSWER:
            return settings
        return settings.shortened(LONGEST_ANSWER // 2)

    @torch.no_grad()
    def run(self, changes: Mapping[str, Any] | None = None) -> Trajectory:
        """A recorded denoising run.

        Args:
            changes: sampler settings that differ from `settings`.

        Raises:
            NotApplicableError: the family has no such setting, or nothing was decided in the run.
        """
        if absent := sorted(self.settings.unused & set(changes or {})):
            raise NotApplicableError(f"{self.adapter.family} has no sampler setting {' nor '.join(absent)}")
        run = self.adapter.denoise(self.inputs, self.settings.merged(changes or {}))
        if (run.commit_steps == NEVER_COMMITTED).all():
            masked = self.adapter.mask_token_id is not None
            why = ": it chose the mask token everywhere" if masked else ""
            raise NotApplicableError(f"the model decided no token{why}")
        return run

    @cached_property
    def default_run(self) -> Trajectory:
        """The recorded run of the settings."""
        return self.run()

    def probed(self, layer: str, changes: Mapping[str, Any] | None = None) -> Probed:
        """Activations and gradients of the token decided last, by the engine's probe at the image tokens.

        Args:
            layer: path of the probed module.
            changes: sampler settings that differ from `settings`.
        """
        run = self.default_run
        position = int(run.commit_steps.argmax())
        reading = Reading(
            state=run.states[run.commit_steps[position]],
            positions=(position,),
            token_ids=(int(run.final[position]),),
            objective=GradientTarget(lambda logits, ids: logits[0, ids[0]]),
            conditioning=run.conditioning_of(int(run.commit_steps[position])),
        )
        where = torch.cat([view.positions.flatten() for view in self.inputs.views])
        settings = self.settings.merged(changes or {})
        with torch.inference_mode(False), untouched(self.adapter.model):
            (found,) = probe(self.adapter, self.inputs, layer, [reading], where, settings)
        return found

    def tolerance(self, logits: Tensor, guidance_scale: float = 0.0) -> float:
        """How far two computations of the same logits may lie apart.

        1e-5 of the logits' size in float32, four units of rounding in narrower dtypes. Guidance adds two
        passes up, (1 + scale) of one and scale of the other, and their rounding with them.

        Args:
            logits: the logits; those of suppressed tokens, -inf, do not count.
            guidance_scale: scale of the guidance.
        """
        size = logits.where(logits.isfinite(), 0).abs().max().clamp(min=1).item()
        rounding = max(1e-5, 4 * torch.finfo(self.adapter.dtype).eps)
        return float(size * rounding * (1 + 2 * guidance_scale))
