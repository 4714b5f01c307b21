"""The fields of LLaDA-V's `config.json` that decide what is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from dcam_adapters.common.siglip import VisionConfig
from dcam_core.errors import CheckpointError

__all__ = ["LLaDAVConfig"]

MASK_TOKEN_ID = 126336
"""`<|mdm_mask|>`; hard-coded upstream, where config.json has no such field."""

# Without these a checkpoint's shapes are unknown; every other field has the published value as default.
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


@dataclass(frozen=True)
class LLaDAVConfig:
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
        mask_token_id: id of `<|mdm_mask|>`; upstream hard-codes it.
        suppressed_token_ids: ids that may not be chosen at a masked position: EOS, BOS and both header
            tokens; upstream hard-codes them.
        mm_patch_merge_type: how the tiles' features are merged; only "spatial_unpad" is supported.
        image_aspect_ratio: "anyres_max_N", or "pad" for one square crop.
        image_grid_pinpoints: (width, height) of every canvas the any-resolution split may choose, in
            pixels; empty means all grids from 1x1 to 6x6 tiles.
        tokenizer_model_max_length: the merged prompt is cut to this length from the right; None: never.
        vision: the tower's dimensions.
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
    mm_patch_merge_type: str = "spatial_unpad"
    image_aspect_ratio: str = "anyres_max_4"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    tokenizer_model_max_length: int | None = 16384
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

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
        if missing := [name for name in REQUIRED if name not in values]:
            raise CheckpointError(
                f"config.json of a LLaDA-V checkpoint lacks {', '.join(missing)}: "
                "the model's shape is unknown; take the config.json that was published with the weights"
            )
        converted = {"vision", "suppressed_token_ids", "image_grid_pinpoints"}
        known = {item.name for item in fields(cls)} - converted
        chosen = {name: value for name, value in values.items() if name in known and value is not None}
        chosen.setdefault("num_key_value_heads", chosen["num_attention_heads"])
        if "tokenizer_model_max_length" in values:
            chosen["tokenizer_model_max_length"] = values["tokenizer_model_max_length"]
        if suppressed := values.get("suppressed_token_ids"):
            chosen["suppressed_token_ids"] = tuple(suppressed)
        # transformers >= 5 writes the rotary settings into a block of their own.
        if theta := (values.get("rope_parameters") or {}).get("rope_theta"):
            chosen["rope_theta"] = theta
        config = cls(
            **chosen,
            image_grid_pinpoints=_pinpoints(values.get("image_grid_pinpoints")),
            vision=VisionConfig.from_dict(values.get("vision_config") or {}),
        )
        config._check(values)
        return config

    @classmethod
    def of(cls, source: Any) -> Self:
        """Reads a configuration of any make: ours, a dictionary, or an object such as transformers'.

        Raises:
            CheckpointError: there is none, or as `from_dict` says.
        """
        if isinstance(source, cls):
            return source
        if source is None:
            raise CheckpointError(
                "the model to wrap has no .config: give the content of its config.json as config="
            )
        if isinstance(source, Mapping):
            return cls.from_dict(source)
        to_dict = getattr(source, "to_dict", None)
        return cls.from_dict(to_dict() if callable(to_dict) else vars(source))

    def _check(self, values: Mapping[str, Any]) -> None:
        def refuse(name: str, offered: str) -> None:
            raise CheckpointError(
                f"config.json has {name} = {values.get(name)!r}, LLaDA-V's adapter offers {offered}: "
                "the checkpoint is of another family or a variant that is not supported"
            )

        if self.hidden_size % self.num_attention_heads:
            refuse("num_attention_heads", f"a divisor of hidden_size ({self.hidden_size})")
        if self.num_attention_heads % self.num_key_value_heads:
            refuse("num_key_value_heads", f"a divisor of num_attention_heads ({self.num_attention_heads})")
        if not re.fullmatch(r"pad|anyres_max_\d+", self.image_aspect_ratio):
            refuse("image_aspect_ratio", "'pad' and 'anyres_max_N'")
        if self.mm_patch_merge_type != "spatial_unpad":
            refuse("mm_patch_merge_type", "'spatial_unpad'")
        if values.get("rope_scaling"):
            refuse("rope_scaling", "null")
        if values.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
            refuse("mm_projector_type", "'mlp2x_gelu'")
        if values.get("tie_word_embeddings"):
            refuse("tie_word_embeddings", "false")
        if not 0 <= self.mask_token_id < self.vocab_size:
            refuse("mask_token_id", f"ids below vocab_size = {self.vocab_size} (default {MASK_TOKEN_ID})")


def _pinpoints(value: Any) -> tuple[tuple[int, int], ...]:
    """An explicit list of canvases, or () for the string form "(1x1),...,(6x6)" and for nothing."""
    if value is None or isinstance(value, str):
        return ()
    return tuple((int(width), int(height)) for width, height in value)
