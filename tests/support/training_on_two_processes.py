"""Two processes on the CPU train the toy, in turn in every way of `WAYS`: `python -m ... FOLDER`.

Each rank writes what it found to FOLDER/WAY/found-RANK.json, and the weights that it ended with beside it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dcam_core.dataset import Sample
from dcam_core.training import DiffusionCAM
from support.toy_training import ToyTraining, batches, scene, trainer

WAYS = ("plain", "rank-zero", "every-rank", "sharded-plain", "sharded", "sharded-chosen")
"""Under DDP: without the callback, explaining on one rank, on both. With sharded blocks: without it, with it, and
with samples that are chosen from each rank's own batch."""


class Sharded(ToyTraining):
    """The toy with its blocks and its head spread over both processes, as FSDP does it."""

    def configure_model(self) -> None:
        for part in (*self.model.blocks, self.model.head):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])


def strategy(way: str) -> Strategy:
    if way.startswith("sharded"):
        return ModelParallelStrategy(2, 1, process_group_backend="gloo")
    # The loss does not reach the layer that embeds the picture.
    return DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)


def chosen(batch: torch.Tensor) -> list[Sample]:
    """Another number of samples on either rank: if each explained its own, one would wait for the other for ever."""
    return [scene(f"scene-{number}") for number in range(1 + int(os.environ["LOCAL_RANK"]))]


def callback(way: str) -> DiffusionCAM:
    return DiffusionCAM(
        chosen if way == "sharded-chosen" else [scene()],
        every_n_train_steps=2,
        probe_layer=0,
        metrics=[],
        max_time_fraction=1.0,  # bounds nothing, and is agreed upon where all ranks explain
        strict=True,
        every_rank=True if way == "every-rank" else None,
    )


def main(folder: Path) -> None:
    for way in WAYS:
        L.seed_everything(1, verbose=False)
        module = Sharded() if way.startswith("sharded") else ToyTraining()
        showing = [] if way.endswith("plain") else [callback(way)]
        trainer(folder / way, *showing, max_steps=4, devices=2, strategy=strategy(way)).fit(module, batches())
        rank = int(os.environ["LOCAL_RANK"])
        (folder / way).mkdir(exist_ok=True)
        weights = {name: _whole(value) for name, value in module.state_dict().items()}
        torch.save(weights, folder / way / f"weights-{rank}.pt")
        found = {"losses": module.losses, "history": showing[0].history if showing else []}
        (folder / way / f"found-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
