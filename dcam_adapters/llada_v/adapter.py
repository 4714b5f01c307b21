"""LLaDA-V behind dcam's adapter contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from dcam_adapters.common.dllm_cache import DllmCache, is_exact, stale_image_span
from dcam_adapters.common.layouts import PictureLayout
from dcam_adapters.common.llava import LlavaAdapter
from dcam_adapters.common.module_tree import ModulePaths
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.layout import picture_layout
from dcam_adapters.llada_v.modeling import LLaDAV
from dcam_core.denoising.sampler import DenoisingStep, denoise
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.inputs import Inputs

__all__ = ["LLaDAVAdapter"]

UPSTREAM_LENGTH = 128
"""Answer length, block length and steps of upstream's demonstration (spec, section 8)."""


class LLaDAVAdapter(LlavaAdapter[LLaDAVConfig]):
    """LLaDA-V: a masked-diffusion LLaDA that attends to the whole sequence, image tokens included."""

    family: ClassVar[str] = "llada-v"
    title = "LLaDA-V"
    paths = ModulePaths(
        blocks="model.layers", embedding="model.embed_tokens", norm="model.norm", head="lm_head"
    )
    config_type = LLaDAVConfig
    network = LLaDAV
    stop_tokens = ("<|eot_id|>",)
    original_caches: ClassVar[bool] = False

    def layout(self, size: tuple[int, int], *, padded: bool) -> PictureLayout:
        """Base view and tiles, or one padded square; see `dcam_adapters.llada_v.layout`."""
        return picture_layout(self.config, size, padded=padded)

    @property
    def default_sampler(self) -> SamplerSettings:
        """Upstream's rules: uniform schedule, low confidence, EOS, BOS and header tokens suppressed.

        generation_config.json may give `gen_length`, `block_length` and `steps`.
        """
        vocabulary = self._vocabulary or self.config.vocab_size
        return replace(
            self._sampler(UPSTREAM_LENGTH),
            # Ids beyond the vocabulary cannot be chosen anyway.
            suppressed_ids=tuple(token for token in self.config.suppressed_token_ids if token < vocabulary),
            stop_sequences=self._stop_sequences,
        )

    @property
    def caches(self) -> tuple[str, ...]:
        """Upstream's dLLM-Cache, and prefix caching where the model keeps keys and values."""
        return (*super().caches, "dllm")

    def denoise(
        self,
        inputs: Inputs,
        settings: SamplerSettings,
        on_step: Callable[[DenoisingStep], None] | None = None,
    ) -> Trajectory:
        """The shared sampler, with dLLM-Cache where it is asked for; see `Adapter.denoise`.

        Raises:
            ConfigurationError: there is no such cache, or dLLM-Cache is asked for together with guidance or for
                blocks that lie on several devices.
        """
        if settings.cache != "dllm":
            return super().denoise(inputs, settings, on_step)
        language, dimensions = self._language, self.config.language
        cache = DllmCache(
            language.backbone,
            lambda hidden: self._finished(language.head(hidden)),
            inputs.embeddings,
            settings,
            head_dim=dimensions.head_dim,
            theta=dimensions.theta,
        )
        return denoise(self, inputs, settings, on_step, forward=cache)

    def invalid_reason(self, trajectory: Trajectory, step: int) -> str | None:
        """Steps that took the image tokens out of dLLM-Cache; see `Adapter.invalid_reason`."""
        return stale_image_span(trajectory.settings, step)

    def exact_replay(self, trajectory: Trajectory, step: int) -> bool:
        """Not where dLLM-Cache served rows; see `Adapter.exact_replay`."""
        return is_exact(trajectory.settings, step)
