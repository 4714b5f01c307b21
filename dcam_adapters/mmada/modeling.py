"""MMaDA's language model, in the key layout of the published checkpoints (spec, section 3).

    MMaDA
    `- model.transformer                  wte, blocks.N, ln_f, ff_out: see `dcam_adapters.common.olmo`

The image tokenizer is a second model with a checkpoint of its own: see `magvit.py`. What reaches the language
model of a picture are ids.
"""

from __future__ import annotations

from torch import Tensor, nn

from dcam_adapters.common.olmo import OlmoModel
from dcam_adapters.common.transformer import AttentionFunction, sdpa_attention
from dcam_adapters.mmada.config import MMaDAConfig

__all__ = ["Head", "MMaDA"]


class MMaDA(nn.Module):
    """The language model, called as upstream's is: ids or embeddings in, logits at every position out.

    Args:
        config: the checkpoint's configuration.
        attention: how softmax attention is computed (`plain_attention` is the faster one in bfloat16 on
            CPUs).
    """

    def __init__(self, config: MMaDAConfig, *, attention: AttentionFunction = sdpa_attention) -> None:
        super().__init__()
        self.config = config
        self.model = OlmoModel(config.language, attention=attention)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Runs blocks, final norm and head; attention is bidirectional over the whole sequence.

        Args:
            inputs_embeds: [B, n, D] embeddings of the ids of text, picture and answer.
            attention_mask: None for full attention, else as `OlmoModel.forward` takes it.

        Returns:
            [B, n, V] logits; position p predicts token p itself (no shift).
        """
        return self.model.logits(self.model(inputs_embeds, attention_mask))


class Head(nn.Module):
    """The head as one module, scaling and tied weights included: what recordings call "logits".

    Args:
        model: the language model whose head it is.
    """

    def __init__(self, model: OlmoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, n, D] hidden states after the final norm -> [B, n, V] logits."""
        return self.model.logits(hidden)
