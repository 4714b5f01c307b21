"""`dcam evaluate` and `dcam explain FOLDER` as SLURM starts them, and on two nodes: what one process leaves.

The processes are real, and so is everything that they do together. This machine plays SLURM, which starts them with
its variables, and the second node.
"""

import signal

import pytest
import torch
from support.processes import (
    TOY,
    counted,
    free_port,
    lines,
    results,
    run,
    srun,
    start,
    wait_for,
)

from dcam_core import load_explanation
from dcam_core.testing.toy import toy_picture

pytestmark = pytest.mark.slow

EXPLAIN = ("explain", "pictures", "--prompt", "the blue moon", "--model", "toy", "--method", "grad-cam")
EXPLAIN += ("-t", "all", "--baseline", "none")


def finish(processes):
    """What each said, once all have ended well."""
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def check_whole(root, whole, said):
    assert results(root / "out") == results(whole)
    assert not (root / "out/ranks").exists()
    assert ["Mean over words" in out for out, _ in said] == [True, False]  # the first speaks for both
    assert [err for _, err in said] == ["tables and results: out\n", ""]


# -- SLURM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["evaluation", "interactive"])  # the second: srun in the shell of `salloc`
def test_two_tasks_of_srun_leave_the_folder_that_one_process_leaves(whole, root, job):
    said = finish(srun(root, *TOY, "--out", "out", "--devices", "2", SLURM_JOB_NAME=job))
    check_whole(root, whole, said)


def test_a_job_that_is_ended_is_continued_by_a_batch_script_without_srun(whole, root):
    (root / "hold").touch()
    tasks = srun(root, *TOY, "--out", "out", "--devices", "2")
    wait_for(lambda: (root / "reached").exists() and counted(root / "out").get("1") == 1, tasks[0])
    for task in tasks:
        task.terminate()  # as scancel does, and SLURM when the time is up
    assert [task.communicate(timeout=100) and task.returncode for task in tasks] == [-signal.SIGTERM] * 2
    (root / "hold").unlink()
    kept = lines(root / "out/ranks/1/samples.jsonl")
    # Two tasks are set aside, and nobody has started the second: Lightning does.
    script = {"JOB_ID": "7", "JOB_NAME": "mine", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1"}
    script |= {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    script = {f"SLURM_{name}": value for name, value in script.items()}
    run(root, *TOY, "--out", "out", "--devices", "2", variables=script)
    assert results(root / "out") == results(whole)
    assert lines(root / "out/samples.jsonl")[-1]["seconds"] == kept[0]["seconds"]  # not done again


def test_two_tasks_of_srun_explain_a_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    names = ("a.png", "b.png", "c.png")
    for turn, name in enumerate(names):
        toy_picture().rotate(90 * turn).save(tmp_path / "pictures" / name)
    alone, _ = run(tmp_path, *EXPLAIN, "-o", "one")
    assert alone.count("report.html") == 3
    said = finish(srun(tmp_path, *EXPLAIN, "-o", "two", "--devices", "2"))
    assert said == [(alone.replace("one/", "two/"), ""), ("", "")]
    for name in names:
        one, two = (load_explanation(tmp_path / folder / name) for folder in ("one", "two"))
        assert torch.equal(one.pictures[0].maps, two.pictures[0].maps)


# -- two nodes -----------------------------------------------------------------------------------------------


def test_torchrun_on_two_nodes(whole, root):
    port = str(free_port(25_000, 32_000))
    common = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
    common += ("--master-addr", "127.0.0.1", "--master-port", port)
    nodes = [
        start(
            root, *TOY, "--out", "out", "--nodes", "2", by=(*common, "--node-rank", rank, "-m", "dcam_core")
        )
        for rank in "01"
    ]
    check_whole(root, whole, finish(nodes))


def test_a_call_on_each_of_two_nodes(whole, root):
    first = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port(25_000, 32_000))}
    call = (*TOY, "--out", "out", "--nodes", "2")

    def on(*ranks):
        return [start(root, *call, variables={**first, "NODE_RANK": rank}) for rank in ranks]

    check_whole(root, whole, finish(on("0", "1")))
    # The folder is finished: nobody waits for anybody, and the first node alone writes and speaks.
    (root / "out/summary.md").unlink()
    assert finish(on("1")) == [("", "")]
    assert not (root / "out/summary.md").exists()
