"""Who starts the processes that share work, told from the variables of torchrun, SLURM or nobody."""

import os

import pytest
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from dcam_core.distributed import Processes
from dcam_core.distributed.launching import check_started, launcher_in_slurm
from dcam_core.errors import ConfigurationError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "mine", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
JOB |= {"SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {**JOB, "SLURM_STEP_ID": "0"}
SHELL_OF_SALLOC = str(0xFFFFFFFA)
FIRST = {"MASTER_ADDR": "node-1", "MASTER_PORT": "29500", "NODE_RANK": "1"}


@pytest.fixture
def started_with(monkeypatch):
    """Sets the variables, and no other that anybody starts processes with."""

    def start(variables):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name.endswith(
                ("RANK", "WORLD_SIZE")
            ):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return start


def strategy(environment, devices, nodes):
    made = DDPStrategy(cluster_environment=environment, parallel_devices=["cpu"] * devices)
    made.num_nodes = nodes
    return made


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, None),
        (TORCHRUN, None),
        ({**STEP, **TORCHRUN}, None),
        (STEP, SLURMEnvironment),
        ({**STEP, "SLURM_JOB_NAME": "interactive"}, SLURMEnvironment),
        (JOB, LightningEnvironment),
        ({**JOB, "SLURM_STEP_ID": SHELL_OF_SALLOC}, LightningEnvironment),
        ({**STEP, "SLURM_NTASKS": "1"}, LightningEnvironment),
        ({"SLURM_JOB_ID": "4711"}, LightningEnvironment),
    ],
    ids=[
        "nobody",
        "torchrun",
        "torchrun in a step",
        "srun",
        "srun in a job called interactive",
        "a batch script without srun",
        "the shell of salloc",
        "one task",
        "a job without tasks",
    ],
)
def test_who_starts_processes_is_told_from_the_variables(started_with, variables, kind):
    started_with(variables)
    found = launcher_in_slurm()
    assert found is None if kind is None else type(found) is kind
    if kind is SLURMEnvironment:
        assert not found.auto_requeue


def test_tasks_that_slurm_cannot_tell_apart_by_node_are_refused(started_with):
    started_with({name: value for name, value in STEP.items() if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(RuntimeError, match="Use `--ntasks-per-node=2` instead"):
        launcher_in_slurm()


@pytest.mark.parametrize(
    ("variables", "kind", "devices", "nodes", "message"),
    [
        (
            STEP,
            SLURMEnvironment,
            3,
            1,
            "3 devices on each of 1 nodes make 3 processes, and srun has started 2",
        ),
        (STEP, SLURMEnvironment, 1, 2, "does not match"),  # as many, on one node
        (TORCHRUN, TorchElasticEnvironment, 2, 2, "make 4 processes, and torchrun has started 2"),
        ({}, LightningEnvironment, 1, 2, "nothing here says where the first node is"),
    ],
)
def test_processes_that_never_come_are_not_waited_for(started_with, variables, kind, devices, nodes, message):
    started_with(variables)
    with pytest.raises((ConfigurationError, ValueError), match=message):
        check_started(strategy(kind(), devices, nodes))


@pytest.mark.parametrize(
    ("variables", "kind", "devices", "nodes"),
    [
        (STEP, SLURMEnvironment, 2, 1),
        (TORCHRUN, TorchElasticEnvironment, 1, 2),
        (FIRST, LightningEnvironment, 3, 2),
        ({}, LightningEnvironment, 3, 1),
    ],
)
def test_processes_that_were_started_will_do(started_with, variables, kind, devices, nodes):
    started_with(variables)
    check_started(strategy(kind(), devices, nodes))


def test_further_nodes_are_not_the_first_before_anybody_has_met(started_with):
    started_with({})
    assert Processes.is_first()
    started_with(FIRST)
    assert not Processes.is_first()
