"""An evaluation that was cut off, at any place and in any way, ends as one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from dcam_core.errors import SavedExplanationError
from dcam_core.evaluation import evaluate
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import toy_adapter

ROOT = Path(__file__).parents[2]
PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")
SIGNALS = [signal.SIGINT, signal.SIGKILL]


def results(folder):
    """What must be the same: everything but times, and how long the lines are that hold them."""
    rows = [json.loads(line) for line in (folder / "words.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    for each in (*rows, *samples, summary):
        each.pop("seconds")
        each.pop("words_end", None)
    return rows, samples, summary


def wait_for(done, process, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which the evaluation `out` was not cut off."""
    root = tmp_path_factory.mktemp("whole")
    run(root)
    return root


def run(root, out="out"):
    return evaluate(
        toy_adapter(),
        "toy-things",
        ["grad-cam"],
        root / out,
        dataset_parameters={"root": "."},
        manager=PluginManager(autoload=False, extra=PLUGINS),
    )


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole / "out", tmp_path / "out")
    return tmp_path


# -- files cut at any place ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.999])
def test_continues_from_a_ledger_that_was_cut_anywhere(whole, copied, share):
    ledger = copied / "out/samples.jsonl"
    content = ledger.read_bytes()
    ledger.write_bytes(content[: int(share * len(content))])
    run(copied)
    assert results(copied / "out") == results(whole / "out")


def test_words_of_a_sample_that_was_never_completed_are_dropped(whole, copied):
    ledger, words = copied / "out/samples.jsonl", copied / "out/words.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    words.write_bytes(words.read_bytes()[:-40] + b'{"sample": "thi')
    run(copied)
    assert results(copied / "out") == results(whole / "out")


def test_a_half_written_skip_is_asked_again(whole, copied):
    lines = (copied / "out/samples.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "out/samples.jsonl").write_bytes(b"".join(lines[:-1]))
    (copied / "out/skipped.jsonl").write_bytes(b'{"index": 3, "wh')
    run(copied)
    assert results(copied / "out") == results(whole / "out")
    assert (copied / "out/skipped.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl", "words.jsonl"])
def test_damaged_files_are_named_and_left_alone(copied, name):
    path = copied / "out" / name
    content = path.read_bytes()
    path.write_bytes(b"[" + content[:-200] if name != "words.jsonl" else content[:200])
    damaged = path.read_bytes()
    with pytest.raises(SavedExplanationError, match=name):
        run(copied)
    assert path.read_bytes() == damaged


# -- processes ended by force --------------------------------------------------------------------------------


def start(root, *arguments, plugins=PLUGINS):
    environment = {
        **os.environ,
        "DCAM_DISABLE_PLUGIN_AUTOLOAD": "1",
        "DCAM_PLUGINS": ",".join(plugins),
        "PYTHONPATH": str(ROOT / "tests"),
    }
    command = [sys.executable, "-m", "dcam_core", "evaluate", "--out", "out", *arguments]
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Who runs the tests in the background has interrupts ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


TOY = ["--model", "toy", "--dataset", "toy-things:.", "--methods", "grad-cam"]


@pytest.mark.parametrize("how", SIGNALS, ids=lambda how: how.name)
def test_a_killed_run_continues_and_ends_as_if_nothing_had_happened(whole, tmp_path, how):
    (tmp_path / "hold").touch()
    process = start(tmp_path, *TOY)
    wait_for((tmp_path / "reached").exists, process)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same call continues" in err
    else:
        assert process.returncode == -signal.SIGKILL
    kept = (tmp_path / "out/words.jsonl").read_bytes()
    assert len((tmp_path / "out/samples.jsonl").read_text().splitlines()) == 2

    (tmp_path / "hold").unlink()
    process = start(tmp_path, *TOY)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "grad-cam" in out
    assert (tmp_path / "out/words.jsonl").read_bytes().startswith(kept)
    assert results(tmp_path / "out") == results(whole / "out")


@pytest.mark.slow
@pytest.mark.parametrize("how", SIGNALS, ids=lambda how: how.name)
def test_a_model_that_describes_scenes(tmp_path, how):
    shipped = ("dcam_plugins.plugin", "dcam_adapters.llada_v.plugin", "dcam_adapters.embedded.plugin")
    scenes = ["--model", "tiny-llada-v", "--dataset", "scenes", "--split", "test", "--limit", "4"]
    scenes += ["--methods", "dcam,grad-cam"]
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    process = start(tmp_path / "whole", *scenes, plugins=shipped)
    assert process.wait(300) == 0, process.communicate()
    process = start(tmp_path / "cut", *scenes, plugins=shipped)
    ledger = tmp_path / "cut/out/samples.jsonl"
    wait_for(lambda: ledger.exists() and ledger.stat().st_size > 0, process, 300)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert 1 <= len(ledger.read_text().splitlines()) < 4
    process = start(tmp_path / "cut", *scenes, plugins=shipped)
    assert process.wait(300) == 0, process.communicate()
    assert results(tmp_path / "cut/out") == results(tmp_path / "whole/out")
    _, _, summary = results(tmp_path / "cut/out")
    assert summary["methods"]["dcam"]["pointing-game"]["mean"] > 0.8
