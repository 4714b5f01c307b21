"""A complete small adapter around a seeded random transformer: real parts, built in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from dcam_core.adapter import Adapter
from dcam_core.denoising import SamplerSettings
from dcam_core.inputs import ImageView, Inputs, Prefix

WORDS = "a the red blue green circle square star moon and , left of right no yes one two three".split()
SPECIAL = ["<mask>", "<stop>", "<unk>"]
CHANNELS = 24


def toy_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        additional_special_tokens=["<mask>", "<stop>"],
        clean_up_tokenization_spaces=False,
    )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.attention = nn.MultiheadAttention(CHANNELS, 4, batch_first=True, dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 48), nn.GELU(), nn.Dropout(0.1), nn.Linear(48, CHANNELS))

    def forward(self, hidden: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`prefix`: [1, L, C], what the prompt's rows gave to attention; given back for the next call."""
        normed = self.norm(hidden)
        read = normed if prefix is None else torch.cat([prefix.expand(len(normed), -1, -1), normed], dim=1)
        hidden = hidden + self.attention(normed, read, read, need_weights=False)[0]
        return hidden + self.mlp(hidden), normed


class ToyModel(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS) + len(SPECIAL), CHANNELS)
        self.place = nn.Embedding(64, CHANNELS)
        self.patch = nn.Linear(3, CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(CHANNELS, len(WORDS) + len(SPECIAL), bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)


class ToyAdapter(Adapter):
    """Two views of a picture: 2 x 2 overview tokens, then 3 x 4 tokens with a newline token per row.

    A picture that is higher than wide has 4 x 3 instead. Two pictures fit into a prompt, one after the other.
    """

    family = "toy"
    name = "toy"

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = ToyModel().eval()
        self.tokenizer = toy_tokenizer()

    @classmethod
    def load(cls, folder, placement=None):
        return cls()

    @classmethod
    def wrap(cls, model, tokenizer=None, image_processor=None, *, config=None):
        adapter = cls()
        adapter.model = model
        return adapter

    @property
    def mask_token_id(self) -> int:
        return 0

    @property
    def image_size(self) -> int:
        return 24

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    @property
    def default_sampler(self) -> SamplerSettings:
        return SamplerSettings(answer_length=8, suppressed_ids=(2,), stop_sequences=((1,),))

    def prepare(self, picture, prompt: str) -> Inputs:
        return self.prepare_ids(picture, torch.tensor([self.tokenizer(prompt)["input_ids"]]))

    def prepare_ids(self, picture, input_ids: Tensor) -> Inputs:
        pictures = [picture] if isinstance(picture, Image.Image) else list(picture)
        text = self.model.embed(input_ids)
        parts, views, start = [text[:, :1]], [], 1
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
        return self.model.patch(torch.cat([base, lines], dim=1).to(self.model.patch.weight.dtype))

    @staticmethod
    def _view(name: str, positions: Tensor, size: tuple[int, int], picture: int) -> ImageView:
        rows, cols = positions.shape
        x = torch.linspace(0, size[0], cols + 1, dtype=torch.float64)
        y = torch.linspace(0, size[1], rows + 1, dtype=torch.float64)
        corners = [x[:-1].expand(rows, -1), y[:-1, None].expand(-1, cols)]
        corners += [x[1:].expand(rows, -1), y[1:, None].expand(-1, cols)]
        return ImageView(name, positions.contiguous(), torch.stack(corners, -1), picture)

    caches = ("prefix",)

    def encode_prefix(self, inputs: Inputs) -> Prefix:
        hidden, kept = inputs.embeddings + self.model.place.weight[: inputs.prompt_length], []
        for block in self.model.blocks:
            hidden, normed = block(hidden)
            kept.append(normed)
        return Prefix(kept)

    def replay(
        self, inputs: Inputs, states: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        hidden, start = self.model.embed(states), inputs.prompt_length
        if prefix is None:
            prompt = inputs.embeddings.expand(len(states), -1, -1)
            hidden, start = torch.cat([prompt, hidden], dim=1), 0
        hidden = hidden + self.model.place.weight[start : start + hidden.shape[1]]
        kept = [None] * len(self.model.blocks) if prefix is None else prefix.keys_values
        for block, normed in zip(self.model.blocks, kept, strict=True):
            hidden = block(hidden, normed)[0]
        return self.model.head(hidden[:, inputs.prompt_length - start + positions]).float()

    def unconditional(self, inputs: Inputs) -> Inputs:
        mask = self.model.embed.weight[self.mask_token_id].detach()
        blank = mask.expand_as(inputs.embeddings)
        return Inputs(inputs.prompt, inputs.picture_sizes, blank, inputs.views, inputs.image_span)
