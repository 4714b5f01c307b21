"""Asking a language model for logits, whoever wrote its modules.

An adapter needs three things of the language model in its module tree: logits at some rows, the keys and
values of a prompt, and logits of rows that attend to them. Our own modules offer them directly. Those of the
originals are called by the signature that they have.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from dcam_adapters.common.module_tree import called_eagerly, first_tensor, only_rows
from dcam_core.errors import ConfigurationError

__all__ = ["LanguageModel", "language_model"]


class LanguageModel(ABC):
    """A language model without its head, and its head.

    Args:
        backbone: the module that runs all blocks.
        head: the module that makes logits of normed hidden states.
    """

    ours = False
    """Whether the modules are those of this package."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        self.backbone: Any = backbone
        self.head: Any = head

    @abstractmethod
    def logits(self, embeddings: Tensor, rows: Tensor, keys_values: Any = None) -> Tensor:
        """Logits at some rows.

        Args:
            embeddings: [B, n, D].
            rows: [P] int64, rows of `embeddings`.
            keys_values: what `encode` gave for a prompt, which all rows attend to and whose positions come
                before; None: there is none.

        Returns:
            [B, P, V] in the model's dtype.
        """

    @abstractmethod
    def encode(self, embeddings: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        """Keys and values of a prompt.

        Args:
            embeddings: [1, n, D].
            rows: [P] int64.

        Returns:
            keys and values of every block, in the form that this model reads again, and [1, P, V] logits.
        """


class OwnLanguageModel(LanguageModel):
    """Our modules: `encode(inputs_embeds, prefix=...)` gives hidden states, keys and values."""

    ours = True

    def logits(self, embeddings: Tensor, rows: Tensor, keys_values: Any = None) -> Tensor:
        """See the class above."""
        with called_eagerly(self.backbone):
            hidden = self.backbone(embeddings, prefix=keys_values)
        logits: Tensor = self.head(hidden[:, rows])
        return logits

    def encode(self, embeddings: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        """See the class above."""
        with called_eagerly(self.backbone):
            hidden, keys_values = self.backbone.encode(embeddings)
        return keys_values, self.head(hidden[:, rows])


class _Original(LanguageModel):
    """Modules of the original code, with what is switched off while we call them."""

    @contextmanager
    def _plainly(self, rows: Tensor | None) -> Iterator[None]:
        """Without checkpointing, without compilation, and with the head at some rows only.

        Checkpointing runs blocks without a graph and again in the backward pass: what a hook sees the first
        time is not what is differentiated. LaViDa's original always does so, in evaluation too.
        """
        name = "activation_checkpointing_strategy"
        strategy = getattr(self.backbone, name, None)
        with called_eagerly(self.backbone), nullcontext() if rows is None else only_rows(self.head, rows):
            if strategy is not None:
                setattr(self.backbone, name, None)
            try:
                yield
            finally:
                if strategy is not None:
                    setattr(self.backbone, name, strategy)


class OriginalLlama(_Original):
    """transformers' signature: `(inputs_embeds, past_key_values, use_cache)` gives hidden states first."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__(backbone, head)
        self._takes_cache = "use_cache" in inspect.signature(backbone.forward).parameters

    def logits(self, embeddings: Tensor, rows: Tensor, keys_values: Any = None) -> Tensor:
        """See the class above."""
        options: dict[str, Any] = {"use_cache": False} if self._takes_cache else {}
        if keys_values is not None:
            options["past_key_values"] = _expanded(keys_values, len(embeddings))
        with self._plainly(None):
            hidden = first_tensor(self.backbone(inputs_embeds=embeddings, **options))
        logits: Tensor = self.head(hidden[:, rows])
        return logits

    def encode(self, embeddings: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        """See the class above."""
        with self._plainly(None):
            output = self.backbone(inputs_embeds=embeddings, use_cache=True)
        return output.past_key_values, self.head(first_tensor(output)[:, rows])


class OriginalOlmo(_Original):
    """LLaDA's signature: `(input_ids, input_embeddings, past_key_values, use_cache)` gives logits."""

    def logits(self, embeddings: Tensor, rows: Tensor, keys_values: Any = None) -> Tensor:
        """See the class above."""
        past = None if keys_values is None else _expanded(keys_values, len(embeddings))
        with self._plainly(rows):
            logits: Tensor = self.backbone(
                None, input_embeddings=embeddings, past_key_values=past, use_cache=False
            ).logits
        return logits

    def encode(self, embeddings: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        """See the class above."""
        with self._plainly(rows):
            output = self.backbone(None, input_embeddings=embeddings, use_cache=True)
        return output.attn_key_values, output.logits


def language_model(backbone: nn.Module, head: nn.Module) -> LanguageModel:
    """The language model of a module tree, by the signature that its backbone has.

    Args:
        backbone: the module that runs all blocks.
        head: the module that makes logits.
    """
    parameters = inspect.signature(backbone.forward).parameters
    kind: Callable[[nn.Module, nn.Module], LanguageModel]
    if "prefix" in parameters and hasattr(backbone, "encode"):
        kind = OwnLanguageModel
    elif "input_embeddings" in parameters:
        kind = OriginalOlmo
    else:
        kind = OriginalLlama
    return kind(backbone, head)


def _expanded(keys_values: Any, batch: int) -> Any:
    """An original's cache of one prompt, for a batch of states; the cache itself is left as it is.

    Known are a list of (keys, values) per block, and an object that holds them by block number in
    `past_key_values` and, once filled, is not written to any more (Dream's in LaViDa).
    """

    def expanded(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensor.expand(batch, *tensor.shape[1:]) for tensor in pair)

    if isinstance(keys_values, list | tuple):
        return [expanded(pair) for pair in keys_values]
    if isinstance(held := getattr(keys_values, "past_key_values", None), dict):
        copied = copy.copy(keys_values)
        copied.past_key_values = {block: expanded(pair) for block, pair in held.items()}
        return copied
    raise ConfigurationError(
        f"the model keeps its keys and values in a {type(keys_values).__name__}, which dcam cannot read: "
        "leave prefix caching off (sampler.cache), or load the checkpoint with dcam"
    )
