"""LLaDA-V's network, in the key layout of the published checkpoints (spec, section 2).

    LLaDAV
    |- lm_head                             Linear(D, V), no bias
    `- model
       |- embed_tokens, layers.N, norm     bidirectional LLaMA-style language model
       |- image_newline                    [D], ends every row of tiles' tokens
       |- mm_projector.0, .2               tower features to embeddings
       `- vision_tower.vision_tower.vision_model...

`model(inputs_embeds=...)` gives the hidden states after the final norm and `lm_head` is applied by
the caller, so that logits cost only what is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcam_adapters.common.llama_block import (
    AttentionFunction,
    LlamaBlock,
    RMSNorm,
    rotary_tables,
    sdpa_attention,
)
from dcam_adapters.common.projector import mlp_projector
from dcam_adapters.common.siglip import SiglipTower
from dcam_adapters.llada_v.config import LLaDAVConfig

__all__ = ["LLaDAV", "LLaDAVModel"]


class LLaDAVModel(nn.Module):
    """Everything but the head: tower, projector and language model.

    Args:
        config: the checkpoint's configuration.
        attention: how the language model computes softmax attention.
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        config: LLaDAVConfig,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaBlock(
                config.hidden_size,
                config.intermediate_size,
                config.num_attention_heads,
                config.num_key_value_heads,
                epsilon=config.rms_norm_eps,
                attention_bias=config.attention_bias,
                attention=attention,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.image_newline = nn.Parameter(torch.zeros(config.hidden_size))
        self.mm_projector = mlp_projector(config.vision.hidden_size, config.hidden_size)
        self.vision_tower = SiglipTower(config.vision, attention=vision_attention)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Runs the language model over merged embeddings; attention is bidirectional.

        Args:
            inputs_embeds: [B, n, D] embeddings of text and image tokens.
            attention_mask: None for full attention, else broadcastable to [B, heads, n, n]: bool with
                True where a row's token may attend to a column's, or additive floating point.
            position_ids: [n] or [B, n] rotary positions; 0 .. n-1 if None.

        Returns:
            [B, n, D], hidden states after the final norm.
        """
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        rotary = rotary_tables(
            position_ids, self.config.head_dim, self.config.rope_theta, inputs_embeds.dtype
        )
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden, rotary, attention_mask)
        out: Tensor = self.norm(hidden)
        return out

    def encode_crops(self, pixels: Tensor) -> Tensor:
        """[crops, 3, S, S] pixels in [-1, 1] -> [crops, P * P, D] projected tokens, row-major."""
        tokens: Tensor = self.mm_projector(self.vision_tower(pixels))
        return tokens


class LLaDAV(nn.Module):
    """The whole network: `model` and `lm_head`.

    Args:
        config: the checkpoint's configuration.
        attention: how the language model computes softmax attention (`plain_attention` is the faster
            one in bfloat16 on CPUs).
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        config: LLaDAVConfig,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.config = config
        self.model = LLaDAVModel(config, attention=attention, vision_attention=vision_attention)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """[B, n, D] merged embeddings -> [B, n, V] float32 logits at *every* position.

        Position p predicts token p itself (no shift). For logits at a few positions call `model` and
        apply `lm_head` to those only.
        """
        logits: Tensor = self.lm_head(self.model(inputs_embeds, attention_mask, position_ids))
        return logits.float()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights for training from scratch: N(0, initializer_range), zero biases, unit norms."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                module.weight.normal_(0.0, self.config.initializer_range, generator=generator)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, RMSNorm | nn.LayerNorm):
                module.weight.fill_(1.0)
        newline_scale = self.config.hidden_size**-0.5
        self.model.image_newline.normal_(0.0, newline_scale, generator=generator)
