"""The two passes of the model, made as `generate` makes them.

The encoder reads the prompt and every finished canvas, the decoder the canvas that is being written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

__all__ = ["DECODER", "ENCODER", "HEAD", "LANGUAGE", "SELF_CONDITIONING", "Passes"]

ENCODER = "model.encoder"
DECODER = "model.decoder"
LANGUAGE = f"{ENCODER}.language_model"
SELF_CONDITIONING = f"{DECODER}.self_conditioning"
HEAD = "lm_head"


class Passes:
    """Runs encoder and decoder, with a graph where there is grad mode.

    Args:
        model: `transformers.DiffusionGemmaForBlockDiffusion`, or a module with its tree and signatures.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def empty_cache(self) -> DynamicCache:
        """A cache that grows, in the layout of the model's layers, sliding windows among them."""
        return DynamicCache(config=self._model.config.get_text_config(decoder=True))

    @staticmethod
    def copied(cache: DynamicCache, batch: int) -> DynamicCache:
        """A cache for a batch of `batch` out of one for a batch of one.

        It can be appended to without changing the other, and its keys and values stay in the graph.
        """
        copied = copy.copy(cache)
        layers: list[Any] = [copy.copy(layer) for layer in cache.layers]
        for layer in layers:
            layer.keys = layer.keys.expand(batch, -1, -1, -1)
            layer.values = layer.values.expand(batch, -1, -1, -1)
        copied.layers = layers
        return copied

    def encode(self, cache: DynamicCache, embeddings: Tensor, types: Tensor | None = None) -> None:
        """Appends what the encoder makes of a stretch of the sequence to a cache.

        Args:
            cache: all that stands before; changed.
            embeddings: [B, n, D].
            types: [B, n] int64, 1 at image tokens, which see each other both ways; None: there are none.
        """
        encoder, start = self._model.get_submodule(ENCODER), cache.get_seq_length()
        batch, count, _ = embeddings.shape
        device = embeddings.device
        position_ids = torch.arange(start, start + count, dtype=torch.int32, device=device)[None]
        masks = encoder.create_masks_for_generate(
            config=self._model.config,
            inputs_embeds=embeddings[..., :0],
            attention_mask=torch.ones(batch, start + count, dtype=torch.bool, device=device),
            past_key_values=cache,
            position_ids=position_ids,
            mm_token_type_ids=None if types is None else types.to(device),
        )
        encoder(
            inputs_embeds=embeddings,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=cache,
        )

    def append(self, cache: DynamicCache, ids: Tensor) -> None:
        """Appends a finished canvas [B, K] to a cache."""
        self.encode(cache, self._model.get_submodule(LANGUAGE).embed_tokens(ids))

    def decode(self, cache: DynamicCache, ids: Tensor, where: Tensor, expected: Tensor | None) -> Tensor:
        """Logits of a canvas that reads a cache, which stays as it is.

        Args:
            cache: all that stands before the canvas.
            ids: [B, K] int64, the canvas.
            where: [P] int64, positions in it.
            expected: [B, K, D], the embeddings that the step before expected; None: zeros, as at a first step.

        Returns:
            [B, P, V] float32, bounded softly as the model bounds them.
        """
        decoder, start = self._model.get_submodule(DECODER), cache.get_seq_length()
        position_ids = torch.arange(start, start + ids.shape[1], dtype=torch.int32, device=ids.device)[None]
        with nullcontext() if expected is None else self._handed(expected):
            hidden = decoder(
                decoder_input_ids=ids, past_key_values=cache, decoder_position_ids=position_ids
            ).last_hidden_state
        bound = float(self._model.final_logit_softcapping)
        logits: Tensor = self._model.get_submodule(HEAD)(hidden[:, where]).float()
        return torch.tanh(logits / bound) * bound

    @contextmanager
    def _handed(self, expected: Tensor) -> Iterator[None]:
        """Within the block, the decoder reads these embeddings in place of those that it makes of logits."""

        def hand(module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return args[0], expected

        handle = self._model.get_submodule(SELF_CONDITIONING).register_forward_pre_hook(hand)
        try:
            yield
        finally:
            handle.remove()
