"""`dcam` in processes of its own: one, several, and several as SLURM or somebody on every node starts them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcam_core.evaluation import evaluate
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import toy_adapter

__all__ = [
    "TOY",
    "break_a_picture",
    "counted",
    "evaluated_by_one",
    "free_port",
    "lines",
    "results",
    "run",
    "srun",
    "start",
    "wait_for",
]

TESTS = Path(__file__).parents[1]
PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")
TOY = ("evaluate", "--model", "toy", "--dataset", "toy-things:.", "--methods", "grad-cam")
_OTHERS = ("SLURM_", "DCAM_", "MASTER_", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")


def start(
    root: Path,
    *arguments: str,
    plugins: Sequence[str] = PLUGINS,
    by: Sequence[str] = ("-m", "dcam_core"),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Call `dcam` in a folder."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_OTHERS)},
        "DCAM_DISABLE_PLUGIN_AUTOLOAD": "1",
        "DCAM_PLUGINS": ",".join(plugins),
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        **(variables or {}),
    }
    command = [sys.executable, *by, *arguments]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(root: Path, *arguments: str, seconds: int = 500, **more: Any) -> tuple[str, str]:
    """Call it and wait; what it said."""
    process = start(root, *arguments, **more)
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out, err


def srun(root: Path, *arguments: str, tasks: int = 2, **variables: str) -> list[subprocess.Popen[str]]:
    """Start what `srun --ntasks-per-node TASKS dcam ARGUMENTS` starts, with the variables that it sets."""
    # Lightning has the processes meet at 15000 and the last four digits of the job's number.
    job = str(10_000 + free_port(15_000, 25_000) - 15_000)
    common = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "evaluation",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_NODEID": "0",
    }
    return [
        start(
            root,
            *arguments,
            variables={**common, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), **variables},
        )
        for task in range(tasks)
    ]


def free_port(lowest: int, end: int) -> int:
    """A port of this machine that nobody listens at."""
    for port in range(lowest + os.getpid() % (end - lowest), end):
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"there is no free port between {lowest} and {end}")


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str], seconds: int = 400) -> None:
    """Wait until something is so, while a process is at work."""
    end = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def break_a_picture(root: Path) -> None:
    """Make one of the toy things one that cannot be read."""
    (root / "picture-1.png").write_bytes(b"no picture")


def evaluated_by_one(root: Path) -> Path:
    """The folder that `TOY` makes of an evaluation by this process, with a broken picture."""
    break_a_picture(root)
    with contextlib.chdir(root):  # the reason names the picture as the dataset does
        evaluate(
            toy_adapter(),
            "toy-things",
            ["grad-cam"],
            "out",
            dataset_parameters={"root": "."},
            manager=PluginManager(autoload=False, extra=PLUGINS),
        )
    return root / "out"


def counted(folder: Path) -> dict[str, int]:
    """Samples that each ledger of a process holds."""
    ledgers = {path.parent.name: path for path in folder.glob("ranks/*/samples.jsonl")}
    return {rank: path.read_bytes().count(b"\n") for rank, path in ledgers.items()}


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(folder: Path) -> list[Any]:
    """What an evaluation left: all but times, and where lines end that hold them; numbers to 6 digits."""
    found = [
        *lines(folder / "words.jsonl"),
        *lines(folder / "samples.jsonl"),
        *lines(folder / "skipped.jsonl"),
    ]
    found.append(json.loads((folder / "summary.json").read_text()))
    for each in found:
        each.pop("seconds", None)
        each.pop("words_end", None)
    return [_rounded(each) for each in found]


def _rounded(data: Any) -> Any:
    if isinstance(data, float):
        return round(data, 6) + 0.0
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(value) for value in data] if isinstance(data, list) else data
