"""LLaDA's language model in the OLMo key layout of its first publication, which LaViDa and MMaDA keep.

    transformer
    |- wte                                              Embedding(V, D)
    |- blocks.N.attn_norm, q_proj, k_proj, v_proj, attn_out
    |          .ff_norm, ff_proj (gate), up_proj, ff_out (down)
    |- ln_f
    `- ff_out                                           Linear(D, V), the head; absent with weight tying

Sources: LaViDa spec, sections 1.1, 2.1 and 3; MMaDA spec, sections 3.1-3.4. Only the block type of the
released models, "llama", is offered; its mathematics is in `transformer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcam_adapters.common.config_fields import refuse, require_fields
from dcam_adapters.common.transformer import (
    AttentionFunction,
    KeysValues,
    LanguageNetwork,
    RMSNorm,
    Rotary,
    multi_head_attention,
    rotary_of,
    run_blocks,
    sdpa_attention,
    swiglu,
    transformer_block,
)

__all__ = ["OlmoBlock", "OlmoConfig", "OlmoHead", "OlmoModel"]

# What decides the computation and is offered in one form only: field -> the values that mean this form.
OFFERED: Mapping[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "block_group_size": (1,),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm_with_affine": (True,),
    "rope": (True,),
    "alibi": (False,),
    "clip_qkv": (None,),
}


@dataclass(frozen=True)
class OlmoConfig:
    """The fields of an OLMo-style `config.json` that decide the language model; defaults are LLaDA-8B's.

    Attributes:
        d_model: model width D.
        n_layers: transformer blocks.
        n_heads: query heads.
        n_kv_heads: key and value heads; None: 1 with `multi_query_attention`, else `n_heads`.
        multi_query_attention: see `n_kv_heads`.
        mlp_hidden_size: width of the feed-forward network; None: `mlp_ratio * d_model`.
        mlp_ratio: see `mlp_hidden_size`.
        vocab_size: number of ids.
        embedding_size: rows V of embedding and head; None: `vocab_size`.
        rms_norm_eps: epsilon of the RMS norms.
        rope_theta: base of the rotary frequencies.
        rope_full_precision: rotate in float32 whatever the dtype of the activations.
        include_bias: all linear layers have biases.
        include_qkv_bias: the query, key and value projections have biases.
        attention_layer_norm: RMS norms on queries and keys, before they are split into heads.
        input_emb_norm: embeddings are multiplied by sqrt(D).
        scale_logits: logits are divided by sqrt(D).
        weight_tying: the head is the embedding.
    """

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    multi_query_attention: bool = False
    mlp_hidden_size: int | None = None
    mlp_ratio: int = 4
    vocab_size: int = 126464
    embedding_size: int | None = None
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_full_precision: bool = True
    include_bias: bool = False
    include_qkv_bias: bool = False
    attention_layer_norm: bool = False
    input_emb_norm: bool = False
    scale_logits: bool = False
    weight_tying: bool = False

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads."""
        if self.n_kv_heads is not None:
            return self.n_kv_heads
        return 1 if self.multi_query_attention else self.n_heads

    @property
    def inner(self) -> int:
        """Width of the feed-forward network."""
        return self.mlp_hidden_size if self.mlp_hidden_size is not None else self.mlp_ratio * self.d_model

    @property
    def rows(self) -> int:
        """Rows V of embedding and head."""
        return self.embedding_size if self.embedding_size is not None else self.vocab_size

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by."""
        return self.d_model**-0.5 if self.scale_logits else 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, family: str) -> Self:
        """Reads the fields of a parsed `config.json`; unknown fields are ignored.

        Args:
            values: the content of config.json.
            family: name of the family, for messages.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that is not offered.
        """
        require_fields(values, ("d_model", "n_layers", "n_heads", "vocab_size"), family=family)
        for name, offered in OFFERED.items():
            if (value := values.get(name)) is not None and value not in offered:
                refuse(name, value, " or ".join(map(repr, offered)), family=family)
        known = {item.name for item in fields(cls)}
        config = cls(**{name: value for name, value in values.items() if name in known and value is not None})
        if config.d_model % config.n_heads or config.head_dim % 2:
            refuse(
                "n_heads",
                config.n_heads,
                f"heads of one even width (d_model {config.d_model})",
                family=family,
            )
        if config.n_heads % config.key_value_heads:
            refuse("n_kv_heads", config.n_kv_heads, f"a divisor of n_heads ({config.n_heads})", family=family)
        norm_bias = values.get("bias_for_layer_norm")
        if config.include_bias if norm_bias is None else norm_bias:  # null: as the linear layers
            refuse("bias_for_layer_norm", norm_bias, "norms without biases", family=family)
        return config


class OlmoBlock(nn.Module):
    """One transformer block, all its modules side by side.

    Args:
        config: the language model's configuration.
        attention: how softmax attention is computed.
    """

    def __init__(self, config: OlmoConfig, attention: AttentionFunction) -> None:
        super().__init__()
        width, inner = config.d_model, config.inner
        narrow = config.key_value_heads * config.head_dim
        qkv_bias = config.include_bias or config.include_qkv_bias
        self.head_dim = config.head_dim
        self.attention = attention
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=qkv_bias)
        self.k_proj = nn.Linear(width, narrow, bias=qkv_bias)
        self.v_proj = nn.Linear(width, narrow, bias=qkv_bias)
        self.attn_out = nn.Linear(width, width, bias=config.include_bias)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_proj = nn.Linear(width, inner, bias=config.include_bias)
        self.up_proj = nn.Linear(width, inner, bias=config.include_bias)
        self.ff_out = nn.Linear(inner, width, bias=config.include_bias)
        self.q_norm = RMSNorm(width, config.rms_norm_eps) if config.attention_layer_norm else None
        self.k_norm = RMSNorm(narrow, config.rms_norm_eps) if config.attention_layer_norm else None

    def forward(
        self, x: Tensor, rotary: Rotary, mask: Tensor | None = None, prefix: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """[B, n, D] -> [B, n, D], and the keys and values of these rows; see `multi_head_attention`."""

        def attend(normed: Tensor) -> tuple[Tensor, KeysValues]:
            queries, keys = self.q_proj(normed), self.k_proj(normed)
            mixed, own = multi_head_attention(
                queries if self.q_norm is None else self.q_norm(queries),
                keys if self.k_norm is None else self.k_norm(keys),
                self.v_proj(normed),
                head_dim=self.head_dim,
                rotary=rotary,
                mask=mask,
                prefix=prefix,
                attention=self.attention,
            )
            return self.attn_out(mixed), own

        def feed_forward(normed: Tensor) -> Tensor:
            out: Tensor = self.ff_out(swiglu(self.ff_proj(normed), self.up_proj(normed)))
            return out

        return transformer_block(
            x,
            attend=attend,
            feed_forward=feed_forward,
            attention_norm=self.attn_norm,
            feed_forward_norm=self.ff_norm,
        )


class OlmoHead(nn.Linear):
    """Hidden states to logits, scaled where the configuration asks for it.

    Args:
        config: the language model's configuration.
    """

    def __init__(self, config: OlmoConfig) -> None:
        super().__init__(config.d_model, config.rows, bias=config.include_bias)
        self.scale = config.logit_scale

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return super().forward(hidden) * self.scale


class OlmoModel(LanguageNetwork):
    """The language model: `model` of the published checkpoints, which hold `model.transformer.*`.

    Args:
        language: its configuration.
        attention: how softmax attention is computed (`plain_attention` is the faster one in bfloat16 on
            CPUs).
    """

    def __init__(self, language: OlmoConfig, *, attention: AttentionFunction = sdpa_attention) -> None:
        super().__init__()
        self.language = language
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(language.rows, language.d_model),
                "blocks": nn.ModuleList(OlmoBlock(language, attention) for _ in range(language.n_layers)),
                "ln_f": RMSNorm(language.d_model, language.rms_norm_eps),
            }
        )
        if not language.weight_tying:
            self.transformer["ff_out"] = OlmoHead(language)

    def _hidden(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        prefix: Sequence[KeysValues] | None,
        keep: Callable[[KeysValues], None] | None = None,
    ) -> Tensor:
        language = self.language
        scaled = inputs_embeds * language.d_model**0.5 if language.input_emb_norm else inputs_embeds
        dtype = torch.float32 if language.rope_full_precision else scaled.dtype
        rotary = rotary_of(scaled, position_ids, prefix, language.head_dim, language.rope_theta, dtype)
        modules: Any = self.transformer
        hidden: Tensor = modules["ln_f"](
            run_blocks(modules["blocks"], scaled, rotary, attention_mask, prefix, keep)
        )
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] normed hidden states -> [..., V] logits in their dtype, scaled where the config asks."""
        modules: Any = self.transformer
        if self.language.weight_tying:
            return F.linear(hidden, modules["wte"].weight) * self.language.logit_scale
        logits: Tensor = modules["ff_out"](hidden)
        return logits
