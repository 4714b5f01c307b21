"""Two processes on the CPU give each metric half of the maps: `mean_scores`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dcam_core.metric import Metric
from dcam_core.plugins import default_manager

__all__ = ["given", "mean_scores", "names"]

_COUNT = 7
"""Does not divide by two, and one of the masks is empty."""


def names() -> list[str]:
    """The registered metrics that compare maps with masks."""
    metrics = default_manager().registries.metrics
    return [entry.name for entry in metrics if issubclass(entry.load(), Metric)]


def given(name: str, share: slice = slice(None)) -> Metric:
    """A metric that was given a share of the maps, a few at a time."""
    generator = torch.Generator().manual_seed(0)
    maps, noise = torch.rand(2, _COUNT, 12, 16, generator=generator)
    masks = torch.nn.functional.avg_pool2d(noise, 5, 1, 2) > 0.4
    masks[3] = False
    metric: Metric = default_manager().registries.metrics.get(name)()
    for some, objects in zip(maps[share].split(2), masks[share].split(2), strict=True):
        metric.update(some, objects)
    return metric


def mean_scores(folder: Path) -> list[dict[str, list[float]]]:
    """Of both processes: name -> what `compute` says, and how many maps have no score."""
    mp.spawn(_one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _one_of_two(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for name in names():
        metric = given(name, slice(rank, None, 2))
        mean = metric.compute()
        with metric.sync_context():
            found[name] = [float(mean), int(metric.undefined)]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
