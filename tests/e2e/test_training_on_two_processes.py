"""The training callback in two processes on the CPU: the training does not notice it there either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both ranks found, trained in every way in turn."""
    path = tmp_path_factory.mktemp("trained")
    subprocess.run(
        [sys.executable, "-m", "support.training_on_two_processes", str(path)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        timeout=900,
        check=True,
    )
    return path


def found(folder, way):
    """Losses, history and weights of both ranks."""
    files = [folder / way / f"found-{rank}.json" for rank in (0, 1)]
    weights = [torch.load(folder / way / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files], weights


@pytest.mark.parametrize(
    ("way", "without", "steps"),
    [
        ("rank-zero", "plain", [0, 2, 4]),
        ("every-rank", "plain", [0, 2, 4]),
        ("sharded", "sharded-plain", [0, 2, 4]),
        ("sharded-chosen", "sharded-plain", [2, 4]),
    ],
)
def test_both_ranks_train_as_they_would_without_it(folder, way, without, steps):
    plain, expected = found(folder, without)
    shown, weights = found(folder, way)
    assert [rank["losses"] for rank in shown] == [rank["losses"] for rank in plain]
    assert plain[0]["losses"] != plain[1]["losses"]  # they did see different data
    for before, after in zip(expected, weights, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    # Whoever explains, rank zero alone logs and remembers.
    assert [moment["step"] for moment in shown[0]["history"]] == steps
    assert shown[1]["history"] == []
    assert len(list((folder / way).rglob("contact-sheet/*.png"))) == len(steps)


def test_however_it_is_spread_the_untrained_model_is_explained_alike(folder):
    first = [found(folder, way)[0][0]["history"][0] for way in ("rank-zero", "every-rank", "sharded")]
    assert first[0]["scores"] == pytest.approx(first[1]["scores"], rel=1e-6)
    assert first[0]["scores"] == pytest.approx(first[2]["scores"], rel=1e-6)
