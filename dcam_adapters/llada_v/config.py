"""The fields of LLaDA-V's `config.json` that decide what is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dcam_adapters.common.llama_block import LlamaDimensions
from dcam_adapters.common.llava_config import LlavaConfig, multimodal_fields

__all__ = ["LLaDAVConfig"]

FAMILY = "LLaDA-V"

MASK_TOKEN_ID = 126336
"""`<|mdm_mask|>`; hard-coded upstream, where config.json has no such field."""


@dataclass(frozen=True)
class LLaDAVConfig(LlavaConfig):
    """LLaDA-V's configuration; the defaults are the published 8B model's (spec, section 1.2).

    Attributes:
        vocab_size: rows V of the embedding and of the head.
        hidden_size: model width D.
        intermediate_size: width of the feed-forward network.
        num_hidden_layers: transformer blocks of the language model.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads.
        rms_norm_eps: epsilon of the RMS norms.
        rope_theta: base of the rotary frequencies.
        attention_bias: whether attention projections have biases.
        initializer_range: standard deviation of fresh weights.
        mask_token_id: id of `<|mdm_mask|>`.
        suppressed_token_ids: ids that may not be chosen at a masked position: EOS, BOS and both header
            tokens; upstream hard-codes them.
        image_aspect_ratio: "anyres_max_N", or "pad" for one square crop.
        image_grid_pinpoints: (width, height) of every canvas the any-resolution split may choose, in
            pixels; empty means all grids from 1x1 to 6x6 tiles.
    """

    vocab_size: int = 126464
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    attention_bias: bool = False
    initializer_range: float = 0.02
    mask_token_id: int = MASK_TOKEN_ID
    suppressed_token_ids: tuple[int, ...] = (126081, 126080, 126346, 126347)
    image_aspect_ratio: str = "anyres_max_4"
    tokenizer_model_max_length: int | None = 16384

    @property
    def language(self) -> LlamaDimensions:
        """Dimensions of the language model."""
        return LlamaDimensions(
            vocabulary=self.vocab_size,
            width=self.hidden_size,
            inner=self.intermediate_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            key_value_heads=self.num_key_value_heads,
            epsilon=self.rms_norm_eps,
            theta=self.rope_theta,
            qkv_bias=self.attention_bias,
            output_bias=self.attention_bias,
        )

    @property
    def max_grid_tiles(self) -> int:
        """N of "anyres_max_N": the grid view is resampled to about N tower grids of tokens."""
        return int(self.image_aspect_ratio.removeprefix("anyres_max_"))

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every canvas of the any-resolution split, in the order they are tried."""
        side = self.vision.image_size
        return self.image_grid_pinpoints or tuple(
            (columns * side, rows * side) for columns in range(1, 7) for rows in range(1, 7)
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; unknown fields are ignored.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that this family does not do.
        """
        language = LlamaDimensions.from_dict(
            values, family=FAMILY, epsilon=cls.rms_norm_eps, theta=cls.rope_theta
        )
        multimodal = multimodal_fields(
            values,
            family=FAMILY,
            vocabulary=language.vocabulary,
            mask_token_id=MASK_TOKEN_ID,
            aspect_ratios=r"pad|anyres_max_\d+",
            offered="'pad' and 'anyres_max_N'",
        )
        own: dict[str, Any] = {}
        if suppressed := values.get("suppressed_token_ids"):
            own["suppressed_token_ids"] = tuple(suppressed)
        for name in ("attention_bias", "initializer_range"):
            if values.get(name) is not None:
                own[name] = values[name]
        return cls(
            vocab_size=language.vocabulary,
            hidden_size=language.width,
            intermediate_size=language.inner,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.key_value_heads,
            rms_norm_eps=language.epsilon,
            rope_theta=language.theta,
            **multimodal,
            **own,
        )
