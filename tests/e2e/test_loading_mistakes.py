"""What a new user gets wrong with a checkpoint: one line says what was found, why it is wrong and what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.checkpoints import save_shards

from dcam_core.cli import main

FIXTURE = Path(__file__).parents[1] / "fixtures/lavida/a"
ARGUMENTS = ["--prompt", "describe the picture", "--out", "explained"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A LaViDa checkpoint to be spoilt, and an empty current directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = tmp_path / "lavida"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURE / name, folder)
    return folder


@pytest.fixture
def fails(folder, capsys):
    """Runs `dcam explain` on the folder; gives the one line of the error."""

    def run(*options, code=1):
        arguments = ["explain", str(FIXTURE / "image.png"), "--model", str(folder), *ARGUMENTS, *options]
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        err = capsys.readouterr().err
        assert caught.value.code == code, err
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert not Path("explained").exists(), "nothing is left behind"
        return lines[0]

    return run


def test_another_family_is_asked_for(folder, fails):
    line = fails("--adapter", "mmada")
    assert str(folder) in line
    assert "adapter 'mmada' was asked for, but config.json is one of lavida: leave the adapter out" in line


def test_the_family_of_the_tensors_is_named_when_config_json_is_no_help(folder, fails):
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "architectures"}
    path.write_text(json.dumps(config))
    line = fails()
    assert "several adapters claim it: lavida" in line
    assert "llada-v" in line
    assert "--adapter" in line


def test_a_missing_shard(folder, fails):
    shards = save_shards(folder, load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    shards[1].unlink()
    line = fails()
    assert f"{folder} lacks 1 of the 3 shards" in line
    assert "model-00002-of-00003.safetensors; finish the download" in line


def test_a_truncated_shard(folder, fails):
    shards = save_shards(folder, load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-100])
    assert f"{shards[2]} is truncated: it has" in (line := fails())
    assert "download it anew" in line


def test_a_wrong_dtype(fails):
    line = fails("--dtype", "bf16", code=2)
    assert "dtype 'bf16' is not one of float32, float16, bfloat16, float64" in line


def test_no_tokenizer(folder, fails):
    line = fails()
    assert str(folder) in line
    assert "has no tokenizer" in line
    assert "add the file" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "warp"), "device 'warp' cannot be used"),
        (("--device-map", "everywhere"), "device_map 'everywhere' is not one of auto, balanced, sequential"),
        (("--device-map", "{broken"), "'{broken' is no JSON object"),
        (("--device-map", '{"": "cpu", "model.layers.99": "disk"}'), "names model.layers.99"),
        (("--quantisation", "3bit"), "quantisation '3bit' is not one of 8bit, 4bit"),
        (("--revision", "main"), "is a folder: leave it out"),
        (("--adapter-option", "vq=somewhere"), "adapter 'lavida' has no option 'vq': there are none"),
        (("--adapter-option", "device=cpu"), "with an option of a family's own"),
    ],
)
def test_wrong_options(fails, options, message):
    assert message in fails(*options, code=2)


def test_as_a_program_of_its_own(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    arguments = ["explain", str(FIXTURE / "image.png"), "--model", str(folder), *ARGUMENTS]
    program = "from dcam_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "git LFS pointer, not the weights: run `git lfs pull`" in done.stderr
    assert "Traceback" not in done.stderr
