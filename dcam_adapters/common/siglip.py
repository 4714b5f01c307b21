"""The SigLIP vision tower as multimodal LLaDA families use it: one layer short and without its last norm.

Embeddings and encoder are those of transformers. Only the tower around them is ours, because
transformers' own class always applies the final layer norm and the pooling head, and has moved its
parameters to other names than the published checkpoints have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

__all__ = ["SiglipTower", "VisionConfig"]


@dataclass(frozen=True)
class VisionConfig:
    """Dimensions of a SigLIP tower; the defaults are so400m, patch 14, 384 pixels.

    Attributes:
        hidden_size: width Dv of the features.
        intermediate_size: width of the feed-forward network.
        num_hidden_layers: *nominal* number of layers: the checkpoint holds and the tower runs one fewer.
        num_attention_heads: number of heads.
        num_channels: colour channels.
        image_size: side S in pixels of the square crop that the tower reads.
        patch_size: side p in pixels of one patch.
        hidden_act: activation of the feed-forward network.
        layer_norm_eps: epsilon of the layer norms.
        attention_dropout: dropout on attention weights while training.
    """

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 384
    patch_size: int = 14
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0

    @property
    def layers(self) -> int:
        """Number of layers that the tower runs: the last one is dropped ("hidden state -2")."""
        return self.num_hidden_layers - 1

    @property
    def patches_per_side(self) -> int:
        """P = floor(S / p); pixels beyond P * p are never seen."""
        return self.image_size // self.patch_size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the known fields of a `vision_config` block; others are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class _VisionModel(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        self.encoder = SiglipEncoder(config)  # type: ignore[arg-type]  # annotated with the two-tower config
        # In every checkpoint, but not applied: the features are those of an inner layer.
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # A buffer outside the state dict would stay on the meta device when a checkpoint is assigned.
        positions = torch.arange(self.embeddings.num_positions, device="cpu").expand(1, -1)
        self.embeddings.register_buffer("position_ids", positions, persistent=False)


class _VisionTransformer(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision_model = _VisionModel(config)


class SiglipTower(nn.Module):
    """Crops to patch features, keys `vision_tower.vision_model.*` (LLaDA-V spec, sections 2 and 4).

    Args:
        config: dimensions of the tower.
        attention: transformers' name of the attention implementation, "sdpa" or "eager".
    """

    def __init__(self, config: VisionConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.num_attention_heads,
            num_channels=config.num_channels,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
            attention_dropout=config.attention_dropout,
        )
        siglip._attn_implementation = attention
        self.vision_tower = _VisionTransformer(siglip)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes crops.

        Args:
            pixels: [crops, 3, S, S] in [-1, 1]; cast to the tower's dtype. An expanded single crop costs as much as
                one.

        Returns:
            [crops, P * P, Dv] in the tower's dtype, patches in row-major order.
        """
        vision = self.vision_tower.vision_model
        # Crops that are one in memory are one picture: it is read once.
        read = pixels[:1] if pixels.stride(0) == 0 else pixels
        features: Tensor = vision.encoder(inputs_embeds=vision.embeddings(read)).last_hidden_state
        return features.expand(len(pixels), -1, -1)
