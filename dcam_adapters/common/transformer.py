"""The bidirectional transformer of the LLaDA families, as mathematics: names of modules are elsewhere.

Two key layouts are published for the same network: LLaMA's (`llama_block.py`) and OLMo's (`olmo.py`). Both
modules hold parameters under their own names and compute with the functions of this file. Nothing here
holds a buffer: rotary tables are computed from the positions of each call, so a model built on the meta
device is complete once its parameters are assigned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AttentionFunction",
    "KeysValues",
    "LanguageNetwork",
    "RMSNorm",
    "Rotary",
    "apply_rotary",
    "multi_head_attention",
    "plain_attention",
    "rotary_of",
    "rotary_tables",
    "run_blocks",
    "sdpa_attention",
    "swiglu",
    "transformer_block",
]

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(queries [B, heads, n, head_dim], keys, values [B, heads, m, head_dim], mask or None) -> [B, heads, n, head_dim].

The mask broadcasts to [B, heads, n, m]; bool (True = may attend) or additive.
"""

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine tables, each [n, head_dim] or [B, 1, n, head_dim], in the dtype of the rotation."""

KeysValues = tuple[Tensor, Tensor]
"""Rotated keys and values of one block, each [B, key_value_heads, n, head_dim]."""


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

    Angles, cosines and sines are computed in float32 and only then cast.

    Args:
        positions: [n] or [B, n], the position of every token.
        head_dim: width of one attention head; even.
        theta: base of the geometric progression of frequencies.
        dtype: dtype of the tables, and so of the rotation: that of the activations, or float32.

    Returns:
        cosines and sines, each [n, head_dim], or [B, 1, n, head_dim] for batched positions.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    if positions.ndim == 2:
        angles = angles[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_of(
    hidden: Tensor,
    positions: Tensor | None,
    prefix: Sequence[KeysValues] | None,
    head_dim: int,
    theta: float,
    dtype: torch.dtype,
) -> Rotary:
    """Tables for the rows of `hidden` [B, n, D]: at the given positions, or counted on behind the prefix."""
    if positions is None:
        start = prefix[0][0].shape[2] if prefix else 0
        positions = torch.arange(start, start + hidden.shape[1], device=hidden.device)
    return rotary_tables(positions, head_dim, theta, dtype)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotates the pairs (x[m], x[m + head_dim / 2]) of every head, in the dtype of the tables.

    Args:
        x: [B, heads, n, head_dim].
        rotary: the tables.

    Returns:
        The same shape and dtype as `x`.
    """
    cosines, sines = rotary
    wide = x.to(cosines.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cosines + torch.cat([-second, first], dim=-1) * sines).to(x.dtype)


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


def multi_head_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    head_dim: int,
    rotary: Rotary,
    mask: Tensor | None,
    prefix: KeysValues | None,
    attention: AttentionFunction,
) -> tuple[Tensor, KeysValues]:
    """Attention of n rows to themselves and to a prefix that was computed before.

    With fewer key heads than query heads, key head j serves the consecutive query heads j*r .. j*r+r-1.

    Args:
        queries: [B, n, heads * head_dim], projected.
        keys: [B, n, key_value_heads * head_dim], projected, not yet rotated.
        values: as `keys`.
        head_dim: width of one head.
        rotary: tables for the n rows.
        mask: None for full attention, else over [n, prefix rows + n].
        prefix: keys and values of earlier rows, batch B or 1; None if there are none.
        attention: how softmax attention is computed.

    Returns:
        [B, n, heads * head_dim], and the rows' own keys and values (the prefix's are not among them).
    """
    q, k, v = (
        flat.view(*flat.shape[:2], -1, head_dim).transpose(1, 2)  # [B, heads, n, head_dim]
        for flat in (queries, keys, values)
    )
    q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
    own = k, v
    if prefix is not None:
        k, v = (
            torch.cat([before.expand(len(rows), -1, -1, -1), rows], dim=2)
            for before, rows in zip(prefix, own, strict=True)
        )
    if (groups := q.shape[1] // k.shape[1]) > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return attention(q, k, v, mask).transpose(1, 2).flatten(-2), own


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The gated activation silu(gate) * up between the projections of the feed-forward network."""
    return F.silu(gate) * up


def transformer_block(
    x: Tensor,
    *,
    attend: Callable[[Tensor], tuple[Tensor, KeysValues]],
    feed_forward: Callable[[Tensor], Tensor],
    attention_norm: nn.Module,
    feed_forward_norm: nn.Module,
) -> tuple[Tensor, KeysValues]:
    """Pre-norm block: attention, then the feed-forward network, each added to its input.

    Args:
        x: [B, n, D].
        attend: normalised rows -> what is added to them, and their keys and values.
        feed_forward: normalised rows -> what is added to them.
        attention_norm: norm before attention.
        feed_forward_norm: norm before the feed-forward network.

    Returns:
        [B, n, D], and the rows' keys and values.
    """
    attended, own = attend(attention_norm(x))
    x = x + attended
    return x + feed_forward(feed_forward_norm(x)), own


def run_blocks(
    blocks: Iterable[nn.Module],
    hidden: Tensor,
    rotary: Rotary,
    mask: Tensor | None,
    prefix: Sequence[KeysValues] | None,
    keep: Callable[[KeysValues], None] | None = None,
) -> Tensor:
    """Runs all blocks of a language model.

    Args:
        blocks: modules (x, rotary, mask, prefix) -> (x, keys and values).
        hidden: [B, n, D] embeddings.
        rotary: tables for the n rows.
        mask: see `multi_head_attention`.
        prefix: keys and values of earlier rows, one entry per block; None if there are none.
        keep: gets every block's keys and values of these rows, in order; None: nobody needs them. Those of all blocks
            together take more memory than all else in a pass without a graph.

    Returns:
        [B, n, D] output of the last block.
    """
    for index, block in enumerate(blocks):
        hidden, own = block(hidden, rotary, mask, prefix[index] if prefix else None)
        if keep is not None:
            keep(own)
        del own
    return hidden


class LanguageNetwork(nn.Module, ABC):
    """Embedding, blocks and final norm of a language model, in whatever key layout; the head is apart."""

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prefix: Sequence[KeysValues] | None = None,
    ) -> Tensor:
        """Runs the blocks over embeddings; attention is bidirectional.

        Args:
            inputs_embeds: [B, n, D] embeddings of text and image tokens.
            attention_mask: None for full attention, else broadcastable to [B, heads, n, prefix rows + n]:
                bool with True where a row's token may attend to a column's, or additive floating point.
            position_ids: [n] or [B, n] rotary positions; counted from 0, or on behind the prefix, if None.
            prefix: keys and values of rows that were computed before (`encode`), batch B or 1.

        Returns:
            [B, n, D], hidden states after the final norm.
        """
        return self._hidden(inputs_embeds, attention_mask, position_ids, prefix)

    def encode(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prefix: Sequence[KeysValues] | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """As `forward`, with the keys and values of every block, which may be the `prefix` of a later call."""
        kept: list[KeysValues] = []
        return self._hidden(inputs_embeds, attention_mask, position_ids, prefix, kept.append), kept

    @abstractmethod
    def _hidden(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        prefix: Sequence[KeysValues] | None,
        keep: Callable[[KeysValues], None] | None = None,
    ) -> Tensor:
        """As `forward`; `keep` is that of `run_blocks`."""
