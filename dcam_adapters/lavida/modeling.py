"""LaViDa's networks, in the key layouts of the published checkpoints (spec, section 2)."""

from __future__ import annotations

from torch import Tensor, nn

from dcam_adapters.common.llava_network import LlavaLlama, VisionParts
from dcam_adapters.common.olmo import OlmoConfig, OlmoModel
from dcam_adapters.common.siglip import VisionConfig
from dcam_adapters.common.transformer import AttentionFunction, sdpa_attention
from dcam_adapters.lavida.config import LaViDaDreamConfig, LaViDaLLaDAConfig

__all__ = ["LaViDaDream", "LaViDaLLaDA", "LaViDaLLaDAModel"]


class LaViDaLLaDAModel(OlmoModel, VisionParts):
    """`model`: LLaDA's `transformer`, and the multimodal parts beside it.

    Args:
        language: the language model's configuration.
        vision: the tower's dimensions.
        attention: how the language model computes softmax attention.
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        language: OlmoConfig,
        vision: VisionConfig,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__(language, attention=attention)
        self.add_vision(vision, language.d_model, vision_attention)


class LaViDaLLaDA(nn.Module):
    """LaViDa on LLaDA-8B: everything is under `model`, the head is `model.transformer.ff_out`.

    Args:
        config: the checkpoint's configuration.
        attention: how the language model computes softmax attention (`plain_attention` is the faster
            one in bfloat16 on CPUs).
        vision_attention: transformers' name of the tower's attention, "sdpa" or "eager".
    """

    def __init__(
        self,
        config: LaViDaLLaDAConfig,
        *,
        attention: AttentionFunction = sdpa_attention,
        vision_attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.config = config
        self.model = LaViDaLLaDAModel(
            config.language, config.vision, attention=attention, vision_attention=vision_attention
        )

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """[B, n, D] merged embeddings -> [B, n, V] float32 logits; row p predicts token p itself."""
        return self.model.logits(self.model(inputs_embeds, attention_mask, position_ids)).float()


class LaViDaDream(LlavaLlama[LaViDaDreamConfig]):
    """LaViDa on Dream-7B: `model` and `lm_head`; row p of the logits predicts token p + 1."""
