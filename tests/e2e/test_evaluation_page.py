"""What docs/evaluation.md shows, done as it says, on fewer scenes."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_page_does_what_it_says(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    code = "\n".join(blocks)
    assert len(blocks) == 3
    fewer, count = re.subn(r"limit=\d+", "limit=1", code)
    assert count == 2
    (tmp_path / "page.py").write_text(fewer, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.count("Estimate(mean=") == 2
    assert {line.split()[0] for line in lines} >= {"dcam", "grad-cam", "random-map", "mask-on-token-grid"}
    drawn = {path.name.split("-")[0] for path in (tmp_path / "studied").glob("*.svg")}
    assert drawn == {"ablate", "layers", "sweep"}


def test_the_options_on_the_page_are_those_of_the_command():
    from dcam_core.cli.evaluate import evaluate

    options = {name for each in evaluate.params for name in (*each.opts, *each.secondary_opts)}
    # What stands before "dcam" in a call is the launcher's, and SLURM has a paragraph of its own.
    own = re.sub(r"^(torchrun|srun) .*dcam.* evaluate|^\*\*SLURM\.\*\*(.+\n)+", "", PAGE, flags=re.M)
    assert "--requeue" not in own
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own))
    assert named <= options
    told = (
        "dataset methods metrics limit prompt captions every-grounded-word reliance ablate sweep layers seed "
        "devices nodes strategy sampler states-per-forward targets-per-backward checkpointing offload"
    )
    assert {f"--{name}" for name in told.split()} | {"--no-baselines", "--no-pictures"} <= named
