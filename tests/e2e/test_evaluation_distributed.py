"""`dcam evaluate` by two processes on the CPU: the table of one, also when a process is killed and others go on."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from support.processes import (
    TOY,
    counted,
    lines,
    results,
    run,
    start,
    wait_for,
)

SHIPPED = ("dcam_plugins.plugin", "dcam_adapters.llada_v.plugin", "dcam_adapters.embedded.plugin")
SCENES = ["evaluate", "--model", "tiny-llada-v", "--dataset", "scenes", "--split", "test", "--limit", "5"]
SCENES += ["--methods", "grad-cam", "--metrics", "pointing-game,obj-iou", "--no-baselines"]


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_two_processes_leave_the_folder_that_one_leaves(whole, root):
    out, err = run(root, *TOY, "--out", "out", "--devices", "2")
    assert results(root / "out") == results(whole)
    assert not (root / "out/ranks").exists()
    assert sorted(path.name for path in (root / "out/pictures").iterdir()) == [
        f"{index:06d}.npz" for index in (0, 2, 3)
    ]
    assert out.count("Mean over words") == 1  # the first process speaks for both
    assert err == "tables and results: out\n"


@pytest.mark.slow
def test_the_first_process_is_killed_and_others_go_on(whole, root):
    (root / "hold").touch()
    process = start(root, *TOY, "--out", "out", "--devices", "2")
    # The first process does samples 0 and 2, at which it is held; the other 1, which it skips, and 3.
    wait_for(lambda: (root / "reached").exists() and counted(root / "out").get("1") == 1, process)
    process.kill()
    _, err = process.communicate(timeout=100)  # the other one ends by itself
    assert "another of the processes" in err
    assert "the same call continues" in err
    (root / "hold").unlink()
    kept = lines(root / "out/ranks/1/samples.jsonl")
    for name, more in (("alone", []), ("two", ["--devices", "2"])):  # fewer are left than processes
        shutil.copytree(root / "out", root / name)
        run(root, *TOY, "--out", name, *more)
        assert results(root / name) == results(whole)
        assert not (root / name / "ranks").exists()
        last = lines(root / name / "samples.jsonl")[-1]
        assert last["seconds"] == kept[0]["seconds"]  # what the other one did was not done again


@pytest.mark.slow
def test_under_torchrun(whole, root):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "dcam_core")
    out, _ = run(root, *TOY, "--out", "out", "--devices", "2", by=torchrun)
    assert results(root / "out") == results(whole)
    assert out.count("Mean over words") == 1
    process = start(root, *TOY, "--out", "again", "--devices", "3", by=torchrun)
    assert "torchrun has started 2" in process.communicate(timeout=300)[1]


@pytest.mark.slow
def test_scenes_of_which_a_process_is_killed(tmp_path):
    """An odd number of scenes, described by an embedded model."""
    run(tmp_path, *SCENES, "--out", "whole", plugins=SHIPPED)
    run(tmp_path, *SCENES, "--out", "two", "--devices", "2", plugins=SHIPPED)
    assert results(tmp_path / "two") == results(tmp_path / "whole")
    process = start(tmp_path, *SCENES, "--out", "cut", "--devices", "2", plugins=SHIPPED)
    wait_for(lambda: counted(tmp_path / "cut").get("1", 0) > 0, process)
    (other,) = children(process)
    os.kill(other, signal.SIGKILL)
    process.communicate(timeout=100)  # Lightning notices, and ends the first process
    assert process.returncode != 0
    assert 1 <= sum(counted(tmp_path / "cut").values()) < 5
    for name, more in (("alone", []), ("both", ["--devices", "2"])):
        shutil.copytree(tmp_path / "cut", tmp_path / name)
        run(tmp_path, *SCENES, "--out", name, *more, plugins=SHIPPED)
        assert results(tmp_path / name) == results(tmp_path / "whole")
