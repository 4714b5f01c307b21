"""The training callback in two processes on the CPU: the training does not notice it there either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.toy_training import looking_elsewhere, trainer
from support.training_on_two_processes import WORDS, Sure, callback

from dcam_core.testing.toy import toy_adapter

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
        ("choosing-fails", "plain", [3, 4]),
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
    assert len(list((folder / way).rglob("circle/*.png"))) == len(steps)


def test_where_rank_zero_cannot_choose_both_ranks_go_on(folder):
    first, second = found(folder, "choosing-fails")[0]
    assert first["failed"] == second["failed"] == 2
    assert (first["asked"], second["asked"]) == (4, 0)


def test_two_processes_learn_and_show_what_one_does(folder, tmp_path):
    shown, weights = found(folder, "sure")
    alone, showing = Sure(), callback("sure")
    trainer(tmp_path, showing, max_steps=4).fit(alone)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-6, atol=1e-6)
    assert [moment["step"] for moment in shown[0]["history"]] == [0, 2, 4]
    for both, one in zip(shown[0]["history"], showing.history, strict=True):
        assert both["scores"] == pytest.approx(one["scores"], rel=1e-6, abs=1e-6)


def test_however_it_is_spread_the_untrained_model_is_explained_alike(folder):
    first = [found(folder, way)[0][0]["history"][0] for way in ("rank-zero", "every-rank", "sharded")]
    assert first[0]["scores"] == pytest.approx(first[1]["scores"], rel=1e-6)
    assert first[0]["scores"] == pytest.approx(first[2]["scores"], rel=1e-6)


def test_a_map_as_a_training_signal_teaches_both_ranks_what_both_words_say(folder):
    ranks, weights = found(folder, "looking-plain")
    alone = toy_adapter()
    optimiser = torch.optim.SGD(alone.model.parameters(), 0.1)
    for step in range(4):
        losses = [looking_elsewhere(alone, word) for word in WORDS]
        assert [rank["losses"][step] for rank in ranks] == pytest.approx(
            [loss.item() for loss in losses], rel=1e-5
        )
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
    assert losses[0] < ranks[0]["losses"][0]
    for name, value in alone.model.state_dict().items():
        for rank in weights:
            torch.testing.assert_close(rank[f"model.{name}"], value, rtol=1e-5, atol=1e-6)
