"""Who starts the processes: torchrun, SLURM's srun, somebody on every node, or Lightning itself."""

from __future__ import annotations

import os

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from dcam_core.errors import ConfigurationError

__all__ = ["check_started", "launcher_in_slurm"]

_ON_EVERY_NODE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
"""From here on SLURM numbers the steps that srun did not start: a batch script, the shell of `salloc`."""


def launcher_in_slurm() -> ClusterEnvironment | None:
    """Who has started this process, where SLURM has a part in it; None: as Lightning finds out.

    Lightning goes by the name of the job and its number of tasks. So a program that its script calls without srun
    waits for further processes that never come; and what srun starts in a job called "interactive", as in `salloc`,
    takes each task for a run of its own. The number of the step tells what srun has started.

    Raises:
        RuntimeError: Lightning's, if it cannot tell from the tasks how many there are per node.
    """
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return None
    in_step = int(os.environ.get("SLURM_STEP_ID", _FIRST_SPECIAL_STEP)) < _FIRST_SPECIAL_STEP
    if in_step and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        # A job that is to be put back has SLURM do so: the same call continues. Lightning would write a checkpoint.
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def check_started(strategy: DDPStrategy) -> None:
    """See that as many processes were started as are asked for, rather than wait for those that never come.

    Args:
        strategy: that of a trainer.

    Raises:
        ConfigurationError: they are not as many, or nobody has said where the first node is.
    """
    environment, wanted = strategy.cluster_environment, strategy.num_processes * strategy.num_nodes
    asked = f"{strategy.num_processes} devices on each of {strategy.num_nodes} nodes make {wanted} processes"
    if environment is None:
        return
    if not isinstance(environment, LightningEnvironment):
        if environment.world_size() != wanted:
            raise ConfigurationError(
                f"{asked}, and {_NAMES.get(type(environment), 'the launcher')} has started "
                f"{environment.world_size()}: give devices and nodes as they were started"
            )
        environment.validate_settings(strategy.num_processes, strategy.num_nodes)
    elif strategy.num_nodes > 1 and (missing := [name for name in _ON_EVERY_NODE if name not in os.environ]):
        raise ConfigurationError(
            f"{asked}, and nothing here says where the first node is: call with srun or torchrun, or set "
            f"{', '.join(_ON_EVERY_NODE)} on every node; {', '.join(missing)} not set"
        )


_NAMES: dict[type[ClusterEnvironment], str] = {TorchElasticEnvironment: "torchrun", SLURMEnvironment: "srun"}
