"""Networks of LLaVA-style families: a language model with a vision tower, a projector and a newline vector.

Key layout (LLaDA-V spec, section 2; LaViDa spec, section 2):

    model
    |- (the language model's own)
    |- image_newline                    [D], ends rows of image tokens
    |- mm_projector.0, .2               tower features to embeddings
    `- vision_tower.vision_tower.vision_model...

`model(inputs_embeds)` gives the hidden states after the final norm and the head is applied by the caller,
so that logits cost only what is asked for.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dcam_adapters.common.llama_block import LlamaDimensions, LlamaModel
from dcam_adapters.common.projector import mlp_projector
from dcam_adapters.common.siglip import SiglipTower, VisionConfig
from dcam_adapters.common.transformer import AttentionFunction, sdpa_attention

__all__ = ["LlavaLlama", "LlavaLlamaModel", "VisionParts"]


class VisionParts(nn.Module):
    """The multimodal part of `model`: mixed into a language model."""

    image_newline: nn.Parameter
    mm_projector: nn.Sequential
    vision_tower: SiglipTower

    def add_vision(self, vision: VisionConfig, width: int, attention: str) -> None:
        """Makes the modules; to be called in the constructor.

        Args:
            vision: the tower's dimensions.
            width: width D of the language model.
            attention: transformers' name of the tower's attention, "sdpa" or "eager".
        """
        self.image_newline = nn.Parameter(torch.zeros(width))
        self.mm_projector = mlp_projector(vision.hidden_size, width)
        self.vision_tower = SiglipTower(vision, attention=attention)

    def encode_crops(self, pixels: Tensor) -> Tensor:
        """[crops, 3, S, S] pixels in [-1, 1] -> [crops, P * P, D] projected tokens, row-major."""
        tokens: Tensor = self.mm_projector(self.vision_tower(pixels))
        return tokens


class LlavaLlamaModel(LlamaModel, VisionParts):
    """`model` of a family whose language model has LLaMA's names.

    Args:
        language: the language model's dimensions.
        vision: the tower's dimensions.
        attention: how the language model computes softmax attention.
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        language: LlamaDimensions,
        vision: VisionConfig,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__(language, attention=attention)
        self.add_vision(vision, language.width, vision_attention)


class LlavaLlamaConfig(Protocol):
    """What a configuration must tell to build a network of it."""

    @property
    def language(self) -> LlamaDimensions:
        """Dimensions of the language model."""

    @property
    def vision(self) -> VisionConfig:
        """Dimensions of the tower."""


ConfigT = TypeVar("ConfigT", bound=LlavaLlamaConfig)


class LlavaLlama(nn.Module, Generic[ConfigT]):
    """The whole network: `model` and `lm_head`.

    Args:
        config: the checkpoint's configuration.
        attention: how the language model computes softmax attention (`plain_attention` is the faster
            one in bfloat16 on CPUs).
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.config = config
        self.model = LlavaLlamaModel(
            config.language, config.vision, attention=attention, vision_attention=vision_attention
        )
        self.lm_head = nn.Linear(config.language.width, config.language.vocabulary, bias=False)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """[B, n, D] merged embeddings -> [B, n, V] float32 logits at *every* position, one per row.

        For logits at a few positions call `model` and apply `lm_head` to those only.
        """
        logits: Tensor = self.lm_head(self.model(inputs_embeds, attention_mask, position_ids))
        return logits.float()
