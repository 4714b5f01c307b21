"""The LLaMA-style transformer block that the LLaDA families share, with bidirectional attention.

Submodule names are those of the published checkpoints (`self_attn.q_proj`, `mlp.gate_proj`,
`input_layernorm`, ...), so a state dict loads without renaming. Nothing here holds a buffer: rotary
tables are computed from the positions of each call, so a model built on the meta device is complete
once its parameters are assigned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AttentionFunction",
    "LlamaBlock",
    "RMSNorm",
    "Rotary",
    "SelfAttention",
    "SwiGLU",
    "apply_rotary",
    "plain_attention",
    "rotary_tables",
    "sdpa_attention",
]

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(queries, keys, values [B, heads, n, head_dim], mask or None) -> [B, heads, n, head_dim].

The mask broadcasts to [B, heads, n, n]; bool (True = may attend) or additive.
"""

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine tables, each [n, head_dim] or [B, 1, n, head_dim], in the activation's dtype."""


def sdpa_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention by PyTorch's fused kernels: the default, and the fastest on accelerators."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention as two matrix products: several times faster than SDPA in bfloat16 on CPUs.

    The softmax is taken in float32 whatever the dtype of the activations.
    """
    scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights: Tensor = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return weights @ values


def rotary_tables(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Cosines and sines of the rotary position embedding, half-split convention.

    Angles, cosines and sines are computed in float32 and only then cast (LLaDA-V spec, section 7).

    Args:
        positions: [n] or [B, n], the position of every token.
        head_dim: width of one attention head; even.
        theta: base of the geometric progression of frequencies.
        dtype: dtype of the tables, that of the activations.

    Returns:
        cosines and sines, each [n, head_dim], or [B, 1, n, head_dim] for batched positions.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    if positions.ndim == 2:
        angles = angles[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotates the pairs (x[m], x[m + head_dim / 2]) of every head; x: [B, heads, n, head_dim]."""
    cosines, sines = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


class RMSNorm(nn.Module):
    """Root-mean-square norm: statistics in float32, cast back to the input's dtype, then the weight.

    Args:
        width: size of the normalised last dimension.
        epsilon: added to the mean square.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype (promoted with the weight's)."""
        x32 = x.float()
        return self.weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.epsilon)).to(
            x.dtype
        )


class SelfAttention(nn.Module):
    """Multi-head attention over the whole sequence, with rotary positions and optional grouped keys.

    Args:
        width: model width D.
        heads: number of query heads.
        key_value_heads: number of key and value heads; divides `heads`.
        bias: whether the four projections have biases.
        attention: how softmax attention is computed.
    """

    def __init__(
        self, width: int, heads: int, key_value_heads: int, *, bias: bool, attention: AttentionFunction
    ) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.groups = heads // key_value_heads
        self.attention = attention
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.head_dim, width, bias=bias)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None = None) -> Tensor:
        """[B, n, D] -> [B, n, D]."""
        queries, keys, values = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = apply_rotary(queries, rotary), apply_rotary(keys, rotary)
        if self.groups > 1:
            keys = keys.repeat_interleave(self.groups, dim=1)
            values = values.repeat_interleave(self.groups, dim=1)
        mixed = self.attention(queries, keys, values, mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward network, down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class LlamaBlock(nn.Module):
    """Pre-norm transformer block: attention, then the gated feed-forward network, each added to its input.

    Args:
        width: model width D.
        inner: width of the feed-forward network.
        heads: number of query heads.
        key_value_heads: number of key and value heads.
        epsilon: of both RMS norms.
        attention_bias: whether the attention projections have biases.
        attention: how softmax attention is computed.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        key_value_heads: int,
        *,
        epsilon: float,
        attention_bias: bool = False,
        attention: AttentionFunction = sdpa_attention,
    ) -> None:
        super().__init__()
        self.self_attn = SelfAttention(
            width, heads, key_value_heads, bias=attention_bias, attention=attention
        )
        self.mlp = SwiGLU(width, inner)
        self.input_layernorm = RMSNorm(width, epsilon)
        self.post_attention_layernorm = RMSNorm(width, epsilon)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None = None) -> Tensor:
        """[B, n, D] -> [B, n, D]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
