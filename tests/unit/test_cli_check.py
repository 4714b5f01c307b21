"""`dcam check` with a toy family: what it prints, writes and exits with."""

import json
import sys

import pytest
from PIL import Image

from dcam_core.cli.main import main
from dcam_core.conformance import CHECKS

PLUGIN = """
from pathlib import Path
import torch
from dcam_core.hookspecs import hookimpl
from dcam_core.testing.toy import ToyAdapter

class Mute(ToyAdapter):
    def __init__(self):
        super().__init__()
        self.tokenizer = None

class Careless(ToyAdapter):
    def prepare(self, picture, prompt):
        return self.prepare_ids(picture, torch.tensor([self.tokenizer(prompt)["input_ids"]]))

@hookimpl
def dcam_register_adapters(register):
    register("toy", "dcam_core.testing.toy:ToyAdapter")
    register("mute-toy", "check_plugin:Mute")
    register("careless-toy", "check_plugin:Careless")

@hookimpl
def dcam_register_models(register):
    folder = Path(__file__).parent / "checkpoint"
    register("tiny-toy", folder, adapter="toy")
    register("mute-toy", folder, adapter="mute-toy")
    register("careless-toy", folder, adapter="careless-toy")
"""


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """An installed toy family, alone; the current directory is the test's own."""
    (tmp_path / "check_plugin.py").write_text(PLUGIN)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", "check_plugin")
    monkeypatch.delenv("DCAM_STRICT_PLUGINS", raising=False)
    yield
    sys.modules.pop("check_plugin", None)


@pytest.fixture
def check(capsys):
    """Run `dcam check`; gives (exit code, lines of stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["check", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out.splitlines(), captured.err

    return run


def test_one_line_per_promise_a_summary_and_a_file(check, tmp_path):
    code, lines, error = check("careless-toy", "--json", "results.json")
    assert (code, error) == (1, "")
    names = [line[8:34].strip() for line in lines[:-1]]
    assert names == [each.name for each in CHECKS]
    # It reads a prompt without asking whether it has a tokenizer, has one cache, and no method is installed.
    assert [line.split()[:2] for line in lines if not line.startswith("pass")][:-1] == [
        ["skipped", "replay-other-caches"],
        ["fail", "errors"],
        ["skipped", "explanation"],
    ]
    assert "a prompt without a tokenizer ends in TypeError" in next(
        line for line in lines if "errors" in line
    )
    assert lines[-1] == f"careless-toy (toy): {len(CHECKS) - 3} passed, 1 failed, 2 skipped"

    record = json.loads((tmp_path / "results.json").read_text())
    assert (record["model"], record["family"], record["dtype"]) == ("careless-toy", "toy", "float32")
    assert [each["name"] for each in record["checks"]] == names
    assert [each["status"] for each in record["checks"]] == [line.split()[0] for line in lines[:-1]]
    assert all(each["promise"].endswith(".") for each in record["checks"])


def test_what_is_kept_exits_with_0(check):
    code, lines, _ = check("tiny-toy", "--only", "positions", "--only", "image-span", "--prompt", "the moon")
    assert code == 0
    assert [line.split()[:2] for line in lines] == [
        ["pass", "positions"],
        ["pass", "image-span"],
        ["tiny-toy", "(toy):"],
    ]


def test_a_model_without_tokenizer_is_asked_by_ids(check):
    code, _, error = check("mute-toy", "--only", "positions")
    assert code == 2
    assert "mute-toy has no tokenizer" in error
    assert "--prompt-ids" in error
    code, lines, _ = check("mute-toy", "--only", "positions", "--prompt-ids", "3, 4 5")
    assert code == 0
    assert lines[0].startswith("pass")


def test_a_picture_of_ones_own(check, tmp_path):
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "mine.png")
    code, lines, _ = check("tiny-toy", "--only", "replay", "--picture", "mine.png")
    assert (code, lines[0].split()[0]) == (0, "pass")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-toy", "--only", "replays"], "unknown check 'replays'"),
        (["tiny-toy", "--prompt", "a", "--prompt-ids", "1"], "--prompt and --prompt-ids are given"),
        (["tiny-toy", "--prompt-ids", "one two"], "'one two' is no list of token ids"),
        (["tiny-toy", "--json", "no/such/folder.json"], "--json no/such/folder.json cannot be written"),
        (["tiny-toy", "--json", "."], "--json . cannot be written"),
        (["tiny-toy", "--picture", "no.png"], "does not exist"),
        (["tiny-toi"], "unknown model 'tiny-toi'"),
        ([], "Missing argument"),
    ],
)
def test_wrong_calls_are_refused_before_any_work(check, arguments, message):
    code, lines, error = check(*arguments)
    assert (code, lines) == (2, [])
    assert message in error
    assert error.count("\n") == 1
