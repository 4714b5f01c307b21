"""LLaDA-V's network: a language model with LLaMA's names, and the multimodal parts (spec, section 2)."""

from __future__ import annotations

import torch
from torch import nn

from dcam_adapters.common.llava_network import LlavaLlama
from dcam_adapters.common.transformer import RMSNorm
from dcam_adapters.llada_v.config import LLaDAVConfig

__all__ = ["LLaDAV"]


class LLaDAV(LlavaLlama[LLaDAVConfig]):
    """The whole network: `model` and `lm_head`; row p of the logits predicts token p itself."""

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights for training from scratch: N(0, initializer_range), zero biases, unit norms.

        Args:
            generator: where the random numbers come from; None: PyTorch's global one.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                module.weight.normal_(0.0, self.config.initializer_range, generator=generator)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, RMSNorm | nn.LayerNorm):
                module.weight.fill_(1.0)
        newline = self.get_parameter("model.image_newline")
        newline.normal_(0.0, len(newline) ** -0.5, generator=generator)
