"""The fields of LaViDa's `config.json` that decide what is computed, for both backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from dcam_adapters.common.config_fields import refuse
from dcam_adapters.common.llama_block import LlamaDimensions
from dcam_adapters.common.llava_config import LlavaConfig, multimodal_fields
from dcam_adapters.common.olmo import OlmoConfig
from dcam_adapters.lavida.pooling import POOLING_MODES

__all__ = ["LaViDaConfig", "LaViDaDreamConfig", "LaViDaLLaDAConfig"]

FAMILY = "LaViDa"

PUBLISHED_CANVASES = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))

DREAM = LlamaDimensions(
    vocabulary=152064,
    width=3584,
    inner=18944,
    layers=28,
    heads=28,
    key_value_heads=4,
    epsilon=1e-6,
    theta=1_000_000.0,
    qkv_bias=True,
)
"""Dream-7B (spec, section 1.2)."""


@dataclass(frozen=True)
class LaViDaConfig(LlavaConfig):
    """What both backbones share (spec, section 1.3).

    Attributes:
        image_aspect_ratio: "anyres", "pad" for one padded square crop, anything else for one squashed.
        image_grid_pinpoints: (width, height) of every canvas the any-resolution split may choose.
        mm_spatial_pool_mode: how the tokens of a crop are pooled: "bilinear", "average" or "max".
    """

    image_aspect_ratio: str = "anyres"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = PUBLISHED_CANVASES
    tokenizer_model_max_length: int | None = 4096
    mm_spatial_pool_mode: str = "bilinear"

    default_mask_token_id: ClassVar[int]

    @classmethod
    def _multimodal(cls, values: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
        """The fields of this class, checked."""
        found = multimodal_fields(
            values,
            family=FAMILY,
            vocabulary=vocabulary,
            mask_token_id=cls.default_mask_token_id,
            aspect_ratios=r"(?!anyres_|highres).*",
            offered="'anyres', 'pad' and 'square'",
        )
        # The original squashes where the field is absent or null.
        found.setdefault("image_aspect_ratio", "square")
        mode = values.get("mm_spatial_pool_mode") or cls.mm_spatial_pool_mode
        if mode not in POOLING_MODES:
            refuse("mm_spatial_pool_mode", mode, " or ".join(map(repr, POOLING_MODES)), family=FAMILY)
        if values.get("mm_resampler_type"):
            refuse("mm_resampler_type", values["mm_resampler_type"], "null", family=FAMILY)
        return found | {"mm_spatial_pool_mode": mode}


@dataclass(frozen=True)
class LaViDaLLaDAConfig(LaViDaConfig):
    """With the LLaDA-8B backbone, whose fields have OLMo's names (spec, section 1.1).

    Attributes:
        language: the language model's configuration.
        mask_token_id: id of `<|mdm_mask|>`.
    """

    default_mask_token_id: ClassVar[int] = 126336

    language: OlmoConfig = field(default_factory=lambda: OlmoConfig(n_kv_heads=32, mlp_hidden_size=12288))
    mask_token_id: int = default_mask_token_id

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; unknown fields are ignored.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that this family does not do.
        """
        language = OlmoConfig.from_dict(values, family=FAMILY)
        if language.weight_tying:
            refuse("weight_tying", True, "false", family=FAMILY)
        return cls(language=language, **cls._multimodal(values, language.rows))


@dataclass(frozen=True)
class LaViDaDreamConfig(LaViDaConfig):
    """With the Dream-7B backbone, whose fields have Qwen2's names (spec, section 1.2).

    Attributes:
        language: the language model's dimensions.
        mask_token_id: id of `<|mask|>`.
    """

    default_mask_token_id: ClassVar[int] = 151666

    language: LlamaDimensions = DREAM
    mask_token_id: int = default_mask_token_id

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; unknown fields are ignored.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that this family does not do.
        """
        language = LlamaDimensions.from_dict(
            values, family=FAMILY, epsilon=DREAM.epsilon, theta=DREAM.theta, qkv_bias=True
        )
        return cls(language=language, **cls._multimodal(values, language.vocabulary))
