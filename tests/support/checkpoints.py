"""A small model, checkpoints of it in every format, and ways to spoil them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH = 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.register_buffer("places", torch.arange(4, device="cpu"), persistent=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return hidden + self.down(torch.tanh(self.up(hidden))), None


class Network(nn.Module):
    """Embedding, blocks, head; a parameter of its own and a buffer that is saved."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, WIDTH)
        self.newline = nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("scale", torch.ones(1))
        self.layers = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 10, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) * self.scale + self.newline
        for layer in self.layers:
            hidden = layer(hidden)[0]
        return self.head(hidden)


def network() -> Network:
    """The same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


def empty_network() -> Network:
    with torch.device("meta"):
        return Network()


def save(folder: Path, state: dict[str, Tensor], form: str = "safetensors", name: str = "model") -> None:
    """One file: safetensors, or a pickle."""
    if form == "safetensors":
        save_file(state, folder / f"{name}.safetensors")
    else:
        torch.save(state, folder / f"{name}.bin")


def save_shards(
    folder: Path, state: dict[str, Tensor], form: str = "safetensors", name: str = "model", count: int = 3
) -> list[Path]:
    """Shards and their index."""
    weight_map = {}
    for number in range(1, count + 1):
        shard = f"{name}-{number:05}-of-{count:05}"
        part = dict(list(state.items())[number - 1 :: count])
        save(folder, part, form, shard)
        weight_map |= dict.fromkeys(part, f"{shard}.{form}")
    (folder / f"{name}.{form}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sorted(folder / shard for shard in set(weight_map.values()))
