"""A tiny, complete diffusion model that sees pictures: real parts, seeded, built in milliseconds.

For reproductions and for tests of plugins, where a checkpoint would only be in the way:

```python
from dcam_core import Explainer
from dcam_core.testing.toy import toy_adapter, toy_picture

explanation = Explainer(toy_adapter(), "mine.yaml").explain(toy_picture(), "the red circle", targets=["@1"])
```

On the command line it is the model "toy" of the plugin `dcam_core.testing.plugin`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dcam_core.adapter import Adapter
from dcam_core.conformance.pictures import scene
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import CheckpointError, UsageError
from dcam_core.inputs import ImageView, Inputs, Prefix
from dcam_core.placement import Placement

__all__ = [
    "CHANNELS",
    "SPECIAL",
    "WORDS",
    "ToyAdapter",
    "ToyBlock",
    "ToyModel",
    "toy_adapter",
    "toy_picture",
    "toy_tokenizer",
]

WORDS = tuple("a the red blue green circle square star moon and , left of right no yes one two three".split())
"""Words that the toy knows, and answers with."""

SPECIAL = ("<mask>", "<stop>", "<unk>")
"""Its special tokens, with ids 0 to 2; the words follow."""

CHANNELS = 24
"""Width of its residual stream."""


def toy_adapter(seed: int = 0) -> ToyAdapter:
    """The toy with weights of a seed: the same seed, the same answer and the same maps."""
    return ToyAdapter(seed)


def toy_picture(size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A red circle, a blue square and a green triangle on grey.

    Args:
        size: (width, height) in pixels; a picture that is higher than wide has another token grid.
    """
    return scene(size)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of `WORDS`; any other word is "<unk>"."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106  (no password)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<mask>", "<stop>"],
        clean_up_tokenization_spaces=False,
    )


class ToyBlock(nn.Module):
    """A pre-norm transformer block without causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.attention = nn.MultiheadAttention(CHANNELS, 4, batch_first=True, dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 48), nn.GELU(), nn.Dropout(0.1), nn.Linear(48, CHANNELS))

    def forward(self, hidden: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            hidden: [B, L, C] residual stream.
            prefix: [1, P, C] what the prompt's rows gave to attention, read beside the rows of `hidden`.

        Returns:
            [B, L, C] the new residual stream, and [B, L, C] what its own rows gave to attention: the `prefix`
            of the next call.
        """
        normed = self.norm(hidden)
        read = normed if prefix is None else torch.cat([prefix.expand(len(normed), -1, -1), normed], dim=1)
        hidden = hidden + self.attention(normed, read, read, need_weights=False)[0]
        return hidden + self.mlp(hidden), normed


class ToyModel(nn.Module):
    """Embeddings of words, places and picture patches, blocks, and a head.

    Args:
        blocks: number of blocks.
    """

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS) + len(SPECIAL), CHANNELS)
        self.place = nn.Embedding(64, CHANNELS)
        self.patch = nn.Linear(3, CHANNELS)
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(blocks))
        self.head = nn.Linear(CHANNELS, len(WORDS) + len(SPECIAL), bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)


class ToyAdapter(Adapter):
    """A masked-diffusion model that shows a picture twice.

    The views are an overview of 2 x 2 tokens ("base"), and 3 x 4 tokens with a newline token per row ("grid");
    a picture that is higher than wide has 4 x 3 instead. Two pictures fit into a prompt, one after the other.

    Args:
        seed: seed of the weights.
    """

    family = "toy"
    name = "toy"
    model: ToyModel
    caches: ClassVar[tuple[str, ...]] = ("prefix",)

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ToyModel().eval()
        self.tokenizer = toy_tokenizer()

    @classmethod
    def load(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """A folder whose config.json may say `seed`: the weights follow from it.

        Args:
            folder: holds config.json.
            placement: its device and dtype count.
        """
        adapter = cls()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "seed" in config:
            adapter.model = toy_adapter(config["seed"]).model
        adapter.model.to(placement.device, placement.dtype)
        return adapter

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Put the adapter around a model with the module tree of `ToyModel`; see `Adapter.wrap`.

        An `image_processor` is not asked: the toy reads pictures in one way.
        """
        adapter = cls()
        adapter.model = cast(ToyModel, model)
        adapter.tokenizer = tokenizer or adapter.tokenizer
        return adapter

    @property
    def mask_token_id(self) -> int:
        """Id of "<mask>"."""
        return SPECIAL.index("<mask>")

    @property
    def image_size(self) -> int:
        """Side of the square that stands for the vision tower's, in pixels. Any picture size is read."""
        return 24

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, in order."""
        return list(self.model.blocks)

    @property
    def parity_modules(self) -> Mapping[str, str | nn.Module]:
        """The head; there is no final norm."""
        return {"logits": "head"}

    @property
    def default_sampler(self) -> SamplerSettings:
        """Eight positions; "<unk>" is never chosen, "<stop>" ends the answer."""
        return SamplerSettings(answer_length=8, suppressed_ids=(2,), stop_sequences=((1,),))

    def prepare(self, picture: Image.Image | Sequence[Image.Image], prompt: str) -> Inputs:
        """The first word, the pictures, and the other words; see `Adapter.prepare`.

        Raises:
            CheckpointError: there is no tokenizer.
            UsageError: the prompt is empty.
        """
        if self.tokenizer is None:
            raise CheckpointError("the toy has no tokenizer: give token ids to prepare_ids")
        if not prompt.strip():
            raise UsageError("the prompt is empty: ask something")
        ids = torch.tensor([self.tokenizer(prompt)["input_ids"]], device=self.device)
        return dataclasses.replace(self.prepare_ids(picture, ids), prompt=prompt)

    def prepare_ids(self, picture: Image.Image | Sequence[Image.Image], input_ids: Tensor) -> Inputs:
        """As `prepare`; the ids need no placeholder, since pictures always stand behind the first token."""
        pictures = [picture] if isinstance(picture, Image.Image) else list(picture)
        text = self.model.embed(input_ids)
        parts: list[Tensor] = [text[:, :1]]
        views: list[ImageView] = []
        start = 1
        for number, each in enumerate(pictures):
            rows, cols = (4, 3) if each.height > each.width else (3, 4)
            parts.append(self._tokens(each, rows, cols))
            grid = start + 4 + torch.arange(rows * (cols + 1)).view(rows, cols + 1)[:, :cols]
            views.append(self._view("base", start + torch.arange(4).view(2, 2), each.size, number))
            views.append(self._view("grid", grid, each.size, number))
            start += parts[-1].shape[1]
        embeddings = torch.cat([*parts, text[:, 1:]], dim=1).detach()
        return Inputs("", tuple(each.size for each in pictures), embeddings, tuple(views), (1, start))

    def _tokens(self, picture: Image.Image, rows: int, cols: int) -> Tensor:
        """[1, 4 + rows * (cols + 1), C], overview tokens and grid tokens with one newline token per row."""
        width, height = picture.size
        pixels = torch.tensor(list(picture.convert("RGB").tobytes()), dtype=torch.float32) / 255
        pixels = pixels.view(1, height, width, 3).permute(0, 3, 1, 2)
        base = F.adaptive_avg_pool2d(pixels, (2, 2)).flatten(2).mT
        grid = F.adaptive_avg_pool2d(pixels, (rows, cols)).permute(0, 2, 3, 1)
        lines = F.pad(grid, (0, 0, 0, 1)).flatten(1, 2)
        tokens: Tensor = self.model.patch(torch.cat([base, lines], dim=1).to(self.device, self.dtype))
        return tokens

    @staticmethod
    def _view(name: str, positions: Tensor, size: tuple[int, int], picture: int) -> ImageView:
        rows, cols = positions.shape
        x = torch.linspace(0, size[0], cols + 1, dtype=torch.float64)
        y = torch.linspace(0, size[1], rows + 1, dtype=torch.float64)
        corners = [x[:-1].expand(rows, -1), y[:-1, None].expand(-1, cols)]
        corners += [x[1:].expand(rows, -1), y[1:, None].expand(-1, cols)]
        return ImageView(name, positions.contiguous(), torch.stack(corners, -1), picture)

    def encode_prefix(self, inputs: Inputs) -> Prefix:
        """What the prompt's rows give to attention in every block; see `Adapter.encode_prefix`."""
        hidden, kept = inputs.embeddings + self.model.place.weight[: inputs.prompt_length], []
        for block in self.model.blocks:
            hidden, normed = block(hidden)
            kept.append(normed)
        return Prefix(kept)

    def replay(
        self, inputs: Inputs, states: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """The forward pass of a denoising step; see `Adapter.replay`."""
        hidden, start = self.model.embed(states), inputs.prompt_length
        if prefix is None:
            prompt = inputs.embeddings.expand(len(states), -1, -1)
            hidden, start = torch.cat([prompt, hidden], dim=1), 0
        hidden = hidden + self.model.place.weight[start : start + hidden.shape[1]]
        kept = [None] * len(self.model.blocks) if prefix is None else prefix.keys_values
        for block, normed in zip(self.model.blocks, kept, strict=True):
            hidden = block(hidden, normed)[0]
        logits: Tensor = self.model.head(hidden[:, inputs.prompt_length - start + positions])
        return logits.float()

    def unconditional(self, inputs: Inputs) -> Inputs:
        """The prompt with every row replaced by the mask token's embedding."""
        mask = self.model.embed.weight[self.mask_token_id].detach()
        return dataclasses.replace(inputs, embeddings=mask.expand_as(inputs.embeddings))
