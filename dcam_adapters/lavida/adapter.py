"""LaViDa behind dcam's adapter contract, one description for each backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from dcam_adapters.common.layouts import PictureLayout
from dcam_adapters.common.llava import LlavaAdapter
from dcam_adapters.common.module_tree import ModulePaths
from dcam_adapters.common.prompt import CHATML, LLADA
from dcam_adapters.lavida.config import LaViDaConfig, LaViDaDreamConfig, LaViDaLLaDAConfig
from dcam_adapters.lavida.layout import picture_layout
from dcam_adapters.lavida.modeling import LaViDaDream, LaViDaLLaDA
from dcam_adapters.lavida.pooling import SpatialPooling
from dcam_core.denoising.settings import SamplerSettings

__all__ = ["LaViDaAdapter", "LaViDaDreamAdapter"]

UPSTREAM_LENGTH = 128
"""Answer length of the LLaDA backbone's `generate` (spec, section 8)."""

UPSTREAM_DREAM_LENGTH = 512
"""Answer length of the Dream backbone's `generate` (spec, section 9)."""

UPSTREAM_DREAM_TOP_K = 50
"""Nobody asks for it, yet the published code applies it: see `LaViDaDreamAdapter.default_sampler`."""

ConfigT = TypeVar("ConfigT", bound=LaViDaConfig)


class _PooledAdapter(LlavaAdapter[ConfigT]):
    """Both backbones: the tokens of every crop are pooled behind the projector.

    Attributes:
        pooled: whether tokens are pooled. The checkpoints of stage 1 and the "lowres" one were trained
            without: the original switches it off by an environment variable, config.json does not tell. On by
            default.
    """

    title = "LaViDa"
    pooled: bool = True

    def __init__(self, model: nn.Module, config: ConfigT, *parts: Any, **options: Any) -> None:
        super().__init__(model, config, *parts, **options)
        self._pooling = SpatialPooling(config.mm_spatial_pool_mode, config.vision.patches_per_side)

    def layout(self, size: tuple[int, int], *, padded: bool) -> PictureLayout:
        """Base view and tiles, or one square; see `dcam_adapters.lavida.layout`."""
        cells = self._pooling.cells if self.pooled else self.config.vision.patches_per_side
        return picture_layout(self.config, size, cells, padded=padded)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """[crops, 3, S, S] -> [crops, T * T, D] pooled tokens, or [crops, P * P, D]; row-major."""
        tokens = super().image_tokens(pixels)
        pooled: Tensor = self._pooling(tokens) if self.pooled else tokens
        return pooled

    @property
    def parity_modules(self) -> Mapping[str, str | nn.Module]:
        """Module paths of the quantities that `dcam_core.parity` compares; pooling is no module of the tree."""
        return {**super().parity_modules, "vision.pooled": self._pooling}


class LaViDaAdapter(_PooledAdapter[LaViDaLLaDAConfig]):
    """LaViDa with the LLaDA backbone."""

    family: ClassVar[str] = "lavida"
    paths = ModulePaths(
        blocks="model.transformer.blocks",
        embedding="model.transformer.wte",
        norm="model.transformer.ln_f",
        head="model.transformer.ff_out",
    )
    config_type = LaViDaLLaDAConfig
    network = LaViDaLLaDA
    chat_format = LLADA
    stop_tokens = ("<|eot_id|>", "<|endoftext|>")
    # The original's loader shrinks the embedding to the tokenizer, but not the head (spec, section 2.4).
    trim_vocabulary = False

    @property
    def default_sampler(self) -> SamplerSettings:
        """The defaults of the original's `generate`: uniform schedule, low confidence, no cache.

        One setting is ours: the answer ends at `<|eot_id|>` or EOS. The original ends nowhere, fills the
        region with EOS and leaves it to the caller to cut; what it writes before can differ, since what stands
        behind an end is read as well. `stop_sequences=()` reproduces it. Nothing is suppressed.

        generation_config.json may give `gen_length`, `block_length` and `steps`.
        """
        return replace(
            self._sampler(UPSTREAM_LENGTH),
            stop_sequences=self._stop_sequences,
        )


class LaViDaDreamAdapter(_PooledAdapter[LaViDaDreamConfig]):
    """LaViDa with the Dream backbone, which predicts the token behind each row."""

    family: ClassVar[str] = "lavida-dream"
    prediction_shift: ClassVar[int] = 1
    paths = ModulePaths(
        blocks="model.layers", embedding="model.embed_tokens", norm="model.norm", head="lm_head"
    )
    config_type = LaViDaDreamConfig
    network = LaViDaDream
    chat_format = CHATML
    stop_tokens = ("<|im_end|>", "<|endoftext|>")

    @property
    def default_sampler(self) -> SamplerSettings:
        """The defaults of the original's `generate`: entropy, its timetable, one step per token.

        The 50 most probable tokens count at each position. Nobody asks for that: the published code
        inherits it from the library version that it pins. But it is what the published results were
        computed with, and it decides the order in which tokens are committed, so it is on here;
        `top_k` of the vocabulary's size switches it off.

        Two settings differ. The temperature is 0, as in the original's evaluation, where `generate` has 0.2:
        explanations should not depend on chance. And the answer ends at `<|im_end|>` or EOS, see
        `LaViDaAdapter.default_sampler`.

        generation_config.json may give `gen_length`.
        """
        return SamplerSettings(
            answer_length=int(self._generation.get("gen_length", UPSTREAM_DREAM_LENGTH)),
            schedule="timesteps",
            remasking="entropy",
            top_k=UPSTREAM_DREAM_TOP_K,
            stop_sequences=self._stop_sequences,
        )
