"""What the language stage must know of a family: how its prompt begins, and where its parts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dcam_adapters.common.llava import LlavaAdapter
from dcam_adapters.common.prompt import IMAGE, chat
from dcam_adapters.common.transformer import AttentionFunction
from dcam_adapters.embedded.training.initialisation import initialise_blocks, initialise_projector
from dcam_adapters.embedded.training.prompts import Frame
from dcam_core.adapter import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LlavaStudent", "Student", "half_attention"]

QUESTION = "?"
"""Stands for any question, where the frame around it is looked up; a token of every vocabulary."""


def half_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention whose weights stay in the activations' dtype: on CPUs in bfloat16 several times faster.

    PyTorch sums the softmax in float32 all the same.
    """
    scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    mixed: Tensor = scores.softmax(-1) @ values
    return mixed


class Student(nn.Module, ABC):
    """A network that learns to talk about scenes.

    Attributes:
        network: the module tree with the family's names.
        backbone: what runs all blocks; `encode(embeddings, mask, positions, prefix)` as in
            `dcam_adapters.common.olmo.OlmoModel`.
        embedding: token ids to embeddings.
        head: normed hidden states to logits.
        frame: what stands around picture and question.
        views: how many grids of tokens the model reads of a picture.
    """

    network: nn.Module
    frame: Frame
    views: int

    @property
    @abstractmethod
    def backbone(self) -> Any:
        """What runs all blocks."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """Token ids to embeddings."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Normed hidden states to logits."""

    @abstractmethod
    def picture(self, pixels: Tensor, views: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """The picture's part of the prompt.

        Args:
            pixels: [B, 3, S, S] in [-1, 1].
            views: numbers of the views that are shown.

        Returns:
            [B, m, D] embeddings; [m] int64, their places among the picture's tokens; and the number of
            these with all views.
        """

    @abstractmethod
    def adapter(self) -> Adapter:
        """The network behind the adapter that users have, with its sampler."""

    @abstractmethod
    def initialise(self, pixels: Tensor) -> None:
        """Fresh weights for what the language stage trains, and a stop to the gradient of all else.

        Args:
            pixels: [B, 3, S, S] some pictures.
        """

    def save(self, folder: Path) -> None:
        """Writes the weights as published, in float16."""
        weights = {name: value.half().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)  # written as a private file


class LlavaStudent(Student):
    """Of a LLaVA-style family: a frozen tower, a projector, a base view and a grid view.

    A square picture of the tower's own size is its own only tile: the tower sees it once, and the language
    model twice. What the layout's `merge` does for one picture, for a batch.

    Args:
        kind: the family's adapter.
        values: content of config.json.
        tokenizer: the model's tokenizer.
        generation: content of generation_config.json.
        tower: state dict of the trained tower.
        attention: how the language model computes softmax attention.
    """

    views = 2

    def __init__(
        self,
        kind: type[LlavaAdapter[Any]],
        values: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        generation: Mapping[str, Any],
        tower: Mapping[str, Tensor],
        attention: AttentionFunction = half_attention,
    ) -> None:
        super().__init__()
        self._kind, self._tokenizer, self._generation = kind, tokenizer, generation
        self._config: Any = kind.config_type.of(values)
        self.network = kind.network(self._config, attention=attention, vision_attention="eager")
        self.network.get_submodule(kind.paths.tower).load_state_dict(tower)
        before, behind = chat(tokenizer, QUESTION, kind.chat_format).split(IMAGE)
        between, after = behind.split(QUESTION)
        self.frame = Frame(before, between, after)

    @property
    def backbone(self) -> Any:
        """See the class above."""
        return self.network.get_submodule(self._kind.paths.backbone)

    @property
    def embedding(self) -> nn.Module:
        """See the class above."""
        return self.network.get_submodule(self._kind.paths.embedding)

    @property
    def head(self) -> nn.Module:
        """See the class above."""
        return self.network.get_submodule(self._kind.paths.head)

    def picture(self, pixels: Tensor, views: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Base tokens without a newline, grid tokens with one at the end of every row."""
        base = self.adapter().image_tokens(pixels)
        batch, cells, width = base.shape
        side = round(cells**0.5)
        newline = self.network.get_parameter(self._kind.paths.newline)
        ends = newline.to(base.dtype).expand(batch, side, 1, width)
        grid = torch.cat([base.view(batch, side, side, width), ends], dim=2).flatten(1, 2)
        whole = cells + grid.shape[1]
        shown, places = (base, grid), (torch.arange(cells), torch.arange(cells, whole))
        return torch.cat([shown[v] for v in views], dim=1), torch.cat([places[v] for v in views]), whole

    def adapter(self) -> LlavaAdapter[Any]:
        """See the class above."""
        return self._kind(self.network, self._config, self._tokenizer, generation=self._generation)

    def initialise(self, pixels: Tensor) -> None:
        """Everything but the tower, which is frozen."""
        paths = self._kind.paths
        tower, projector = (self.network.get_submodule(path) for path in (paths.tower, paths.projector))
        tower.requires_grad_(False)
        initialise_blocks(self.network.get_submodule(paths.blocks), self.embedding, self.head)
        with torch.no_grad():
            initialise_projector(projector, tower(pixels).flatten(0, 1))
            nn.init.normal_(self.network.get_parameter(paths.newline), std=0.5)
