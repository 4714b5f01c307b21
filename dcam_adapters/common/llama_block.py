"""The LLaMA key layout: blocks with `self_attn.q_proj`, `mlp.gate_proj`, `input_layernorm`, ..., and their stack.

LLaDA-V and the Dream backbone of LaViDa are published under these names. The mathematics is in
`transformer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

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

__all__ = ["LlamaBlock", "LlamaDimensions", "LlamaModel", "SelfAttention", "SwiGLU"]


# Without these a checkpoint's shapes are unknown; every other field has the published value as default.
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


@dataclass(frozen=True)
class LlamaDimensions:
    """What decides a LLaMA-style language model.

    Attributes:
        vocabulary: rows V of the embedding.
        width: model width D.
        inner: width of the feed-forward network.
        layers: number of blocks.
        heads: number of query heads.
        key_value_heads: number of key and value heads; divides `heads`.
        epsilon: of the RMS norms.
        theta: base of the rotary frequencies.
        qkv_bias: whether the query, key and value projections have biases.
        output_bias: whether the output projection of attention has a bias.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    epsilon: float
    theta: float
    qkv_bias: bool = False
    output_bias: bool = False

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, family: str, epsilon: float, theta: float, **biases: bool
    ) -> Self:
        """Reads the fields of a parsed `config.json`; unknown fields are ignored.

        Args:
            values: the content of config.json.
            family: name of the family, for messages.
            epsilon: of the norms, where config.json does not say.
            theta: of the rotary frequencies, where config.json does not say.
            biases: `qkv_bias` and `output_bias`.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that is not offered.
        """
        require_fields(values, REQUIRED, family=family)
        heads = values["num_attention_heads"]
        # transformers >= 5 writes the rotary settings into a block of their own.
        rotary = values.get("rope_parameters") or {}
        found = cls(
            vocabulary=values["vocab_size"],
            width=values["hidden_size"],
            inner=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            key_value_heads=values.get("num_key_value_heads") or heads,
            epsilon=values.get("rms_norm_eps") or epsilon,
            theta=rotary.get("rope_theta") or values.get("rope_theta") or theta,
            **biases,
        )

        def check(name: str, allowed: bool, offered: str) -> None:
            if not allowed:
                refuse(name, values.get(name), offered, family=family)

        check("num_attention_heads", found.width % heads == 0, f"a divisor of hidden_size ({found.width})")
        check(
            "num_key_value_heads",
            heads % found.key_value_heads == 0,
            f"a divisor of num_attention_heads ({heads})",
        )
        check("hidden_act", values.get("hidden_act", "silu") == "silu", "'silu'")
        check("rope_scaling", not values.get("rope_scaling"), "null")
        check("use_sliding_window", not values.get("use_sliding_window"), "false")
        check("tie_word_embeddings", not values.get("tie_word_embeddings"), "false")
        return found


class SelfAttention(nn.Module):
    """Multi-head attention over the whole sequence, with rotary positions and optional grouped keys.

    Args:
        dimensions: the language model's.
        attention: how softmax attention is computed.
    """

    def __init__(self, dimensions: LlamaDimensions, attention: AttentionFunction) -> None:
        super().__init__()
        self.head_dim = dimensions.head_dim
        self.attention = attention
        width, narrow = dimensions.width, dimensions.key_value_heads * dimensions.head_dim
        self.q_proj = nn.Linear(width, width, bias=dimensions.qkv_bias)
        self.k_proj = nn.Linear(width, narrow, bias=dimensions.qkv_bias)
        self.v_proj = nn.Linear(width, narrow, bias=dimensions.qkv_bias)
        self.o_proj = nn.Linear(width, width, bias=dimensions.output_bias)

    def forward(
        self, x: Tensor, rotary: Rotary, mask: Tensor | None = None, prefix: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """[B, n, D] -> [B, n, D], and the keys and values of these rows; see `multi_head_attention`."""
        mixed, own = multi_head_attention(
            self.q_proj(x),
            self.k_proj(x),
            self.v_proj(x),
            head_dim=self.head_dim,
            rotary=rotary,
            mask=mask,
            prefix=prefix,
            attention=self.attention,
        )
        return self.o_proj(mixed), own


class SwiGLU(nn.Module):
    """Gated feed-forward network, down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out


class LlamaBlock(nn.Module):
    """Pre-norm transformer block.

    Args:
        dimensions: the language model's.
        attention: how softmax attention is computed.
    """

    def __init__(self, dimensions: LlamaDimensions, attention: AttentionFunction = sdpa_attention) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dimensions, attention)
        self.mlp = SwiGLU(dimensions.width, dimensions.inner)
        self.input_layernorm = RMSNorm(dimensions.width, dimensions.epsilon)
        self.post_attention_layernorm = RMSNorm(dimensions.width, dimensions.epsilon)

    def forward(
        self, x: Tensor, rotary: Rotary, mask: Tensor | None = None, prefix: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """[B, n, D] -> [B, n, D], and the keys and values of these rows; see `multi_head_attention`."""
        return transformer_block(
            x,
            attend=lambda normed: self.self_attn(normed, rotary, mask, prefix),
            feed_forward=self.mlp,
            attention_norm=self.input_layernorm,
            feed_forward_norm=self.post_attention_layernorm,
        )


class LlamaModel(LanguageNetwork):
    """Embedding, blocks and final norm: `model` of the published checkpoints.

    Args:
        dimensions: the language model's.
        attention: how softmax attention is computed (`plain_attention` is the faster one in bfloat16 on
            CPUs).
    """

    def __init__(self, dimensions: LlamaDimensions, *, attention: AttentionFunction = sdpa_attention) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.embed_tokens = nn.Embedding(dimensions.vocabulary, dimensions.width)
        self.layers = nn.ModuleList(LlamaBlock(dimensions, attention) for _ in range(dimensions.layers))
        self.norm = RMSNorm(dimensions.width, dimensions.epsilon)

    def _hidden(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        prefix: Sequence[KeysValues] | None,
        keep: Callable[[KeysValues], None] | None = None,
    ) -> Tensor:
        dimensions, dtype = self.dimensions, inputs_embeds.dtype
        rotary = rotary_of(inputs_embeds, position_ids, prefix, dimensions.head_dim, dimensions.theta, dtype)
        hidden: Tensor = self.norm(
            run_blocks(self.layers, inputs_embeds, rotary, attention_mask, prefix, keep)
        )
        return hidden
