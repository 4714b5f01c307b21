"""The training callback under DDP, two processes on the CPU: the training does not notice it there either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def trained(folder, *how):
    """Losses, history and weights of both ranks."""
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "support.ddp_training", str(folder), *how],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        timeout=400,
        check=True,
    )
    found = [json.loads((folder / f"found-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    return found, [torch.load(folder / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_both_ranks_train_as_they_would_without_it(tmp_path):
    plain, weights = trained(tmp_path / "without", "without")
    found, own = trained(tmp_path / "with", "with")
    assert [rank["losses"] for rank in found] == [rank["losses"] for rank in plain]
    for before, after in zip(weights, own, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert [moment["step"] for moment in found[0]["history"]] == [0, 2, 4]
    assert found[1]["history"] == []  # rank zero alone explains
    assert plain[0]["losses"] != plain[1]["losses"]  # they did see different data
    assert len(list(tmp_path.rglob("contact-sheet/*.png"))) == 3
