"""What all adapters of masked-diffusion families have in common, however they read pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from dcam_core.adapter import Adapter
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import CheckpointError
from dcam_core.inputs import Inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MaskedAdapter"]


class MaskedConfig(Protocol):
    """What a family's configuration must tell."""

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""


ConfigT = TypeVar("ConfigT", bound=MaskedConfig)


class MaskedAdapter(Adapter, Generic[ConfigT]):
    """An answer of mask tokens behind a prompt of embeddings.

    Attributes:
        config: the checkpoint's configuration.
    """

    config: ConfigT
    _embedding: nn.Module
    _generation: Mapping[str, Any]

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""
        return self.config.mask_token_id

    def unconditional(self, inputs: Inputs) -> Inputs:
        """The whole prompt, text and picture, replaced by mask tokens (LLaDA's guidance)."""
        with torch.no_grad():
            mask = self._embedding(torch.tensor([[self.mask_token_id]], device=self.device))
        return dataclasses.replace(inputs, embeddings=mask.expand_as(inputs.embeddings))

    def _sampler(self, default: int) -> SamplerSettings:
        """Sampler settings with the answer length, block length and steps of generation_config.json.

        Args:
            default: answer length where the file gives none; one block and one token per step then.
        """
        length = int(self._generation.get("gen_length", default))
        return SamplerSettings(
            answer_length=length,
            block_length=int(self._generation.get("block_length", length)),
            steps=int(self._generation.get("steps", length)),
        )

    def _speaking(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            CheckpointError: there is none.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.name} has no tokenizer (no tokenizer.json beside its weights), so it cannot read a "
                "prompt: add the file, or give token ids to prepare_ids"
            )
        return self.tokenizer
