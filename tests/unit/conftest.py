"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest
import torch
from support.fake_plugins import install
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

__all__ = ["install", "mesh"]


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A mesh of one process, over which weights can be sharded."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()
