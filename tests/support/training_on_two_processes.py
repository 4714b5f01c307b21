"""Two processes on the CPU train the toy, in turn in every way of `WAYS`: `python -m ... FOLDER`.

Each rank writes what it found to FOLDER/WAY/found-RANK.json, and the weights that it ended with beside it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, DistributedSampler

from dcam_core.dataset import Sample
from dcam_core.training import DiffusionCAM
from support.toy_training import ToyTraining, batches, looking_elsewhere, scene, trainer

WAYS = (
    *("plain", "rank-zero", "every-rank", "choosing-fails"),
    *("sharded-plain", "sharded", "sharded-chosen"),
    *("sure", "looking-plain"),
)
"""Under DDP: without the callback, explaining on one rank, on both, and with a function that fails to choose. With
sharded blocks: without it, with it, and with samples that are chosen from each rank's own batch. Under DDP: on halves
of batches that one process can train as a whole, and with a map as the training signal."""

WORDS = ("red", "circle")
"""Whose map each rank learns from."""


class Sharded(ToyTraining):
    """The toy with its blocks and its head spread over both processes, as FSDP does it."""

    def configure_model(self) -> None:
        for part in (*self.model.blocks, self.model.head):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])


class Sure(ToyTraining):
    """The toy without dropout: what two processes learn from half a batch each, one learns from the whole."""

    def __init__(self) -> None:
        super().__init__()
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            elif isinstance(part, nn.MultiheadAttention):
                part.dropout = 0.0

    def train_dataloader(self) -> DataLoader:
        """Batches of 8, in one order; of two ranks, each gets every other row."""
        data, ranks = batches().dataset, self.trainer.world_size
        return DataLoader(
            data, 8 // ranks, sampler=DistributedSampler(data, ranks, self.global_rank, shuffle=False)
        )

    def configure_optimizers(self):
        # Adam would make full steps of gradients that are zero but for rounding.
        return torch.optim.SGD(self.parameters(), 0.1)


class Looking(ToyTraining):
    """The toy that learns where a word shall look."""

    def training_step(self, batch, batch_idx):
        loss = looking_elsewhere(self.adapter, WORDS[self.global_rank])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def strategy(way: str) -> Strategy:
    if way.startswith("sharded"):
        return ModelParallelStrategy(2, 1, process_group_backend="gloo")
    # No loss reaches the layer that embeds the picture.
    return DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)


def chosen(batch: torch.Tensor) -> list[Sample]:
    """Another number of samples on either rank: if each explained its own, one would wait for the other for ever."""
    return [scene(f"scene-{number}") for number in range(1 + int(os.environ["LOCAL_RANK"]))]


asked: list[int] = []
"""The batches about which this rank's function was asked."""


def failing(batch: torch.Tensor) -> list[Sample]:
    """Fails at first; what it gives next cannot be sent to another rank."""
    asked.append(len(asked))
    if len(asked) == 1:
        raise ValueError("nothing to choose")
    return [replace(scene(), caption=lambda: None)] if len(asked) == 2 else [scene()]


def callback(way: str) -> DiffusionCAM:
    fails = way == "choosing-fails"
    return DiffusionCAM(
        {"sharded-chosen": chosen, "choosing-fails": failing}.get(way, [scene()]),
        every_n_train_steps=1 if fails else 2,
        probe_layer=0,
        metrics=[],
        max_time_fraction=1.0,  # bounds nothing, and is agreed upon where all ranks explain
        strict=not fails,
        every_rank=True if way == "every-rank" or fails else None,
    )


def main(folder: Path) -> None:
    for way in WAYS:
        L.seed_everything(1, verbose=False)
        module = {"sharded": Sharded, "sure": Sure, "looking": Looking}.get(way.split("-")[0], ToyTraining)()
        showing = [] if way.endswith("plain") else [callback(way)]
        trainer(folder / way, *showing, max_steps=4, devices=2, strategy=strategy(way)).fit(
            module, None if way == "sure" else batches()
        )
        rank = int(os.environ["LOCAL_RANK"])
        (folder / way).mkdir(exist_ok=True)
        weights = {name: _whole(value) for name, value in module.state_dict().items()}
        torch.save(weights, folder / way / f"weights-{rank}.pt")
        found = {
            "losses": module.losses,
            "history": showing[0].history if showing else [],
            "failed": showing[0].failed if showing else 0,
            "asked": len(asked),
        }
        (folder / way / f"found-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
