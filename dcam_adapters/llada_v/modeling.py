"""LLaDA-V's network: a language model with LLaMA's names, and the multimodal parts (spec, section 2)."""

from __future__ import annotations

import torch

from dcam_adapters.common.llava_network import LlavaLlama, initialise
from dcam_adapters.common.transformer import AttentionFunction, sdpa_attention
from dcam_adapters.llada_v.config import LLaDAVConfig

__all__ = ["LLaDAV"]


class LLaDAV(LlavaLlama):
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
        super().__init__(
            config.language, config.vision, attention=attention, vision_attention=vision_attention
        )
        self.config = config

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights for training from scratch; see `dcam_adapters.common.llava_network.initialise`."""
        initialise(self, self.config.initializer_range, generator)
