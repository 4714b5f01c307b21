"""Peak memory of loading a checkpoint against the size of its weights, each case in a process of its own."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dcam_adapters.common.checkpoint import assign_weights, weight_files
from dcam_core.placement import Placement

__all__ = ["CASES", "measure", "run", "to_markdown"]

SHARDS = 3
BLOCK_WIDTH = 2048

CASES = (
    ("safetensors", "float32", "float32"),
    ("safetensors", "bfloat16", "float32"),
    ("safetensors", "float32", "bfloat16"),
    ("shards", "float32", "float32"),
    ("shards", "bfloat16", "float32"),
    ("bin", "bfloat16", "float32"),
)
"""(form, dtype in the file, dtype in memory)."""


def run(*, mib: int = 512) -> dict[str, Any]:
    """Write a checkpoint in every form, and load each in a fresh process.

    Peak memory is what the process has resident at most (VmHWM; Linux only), less what it had before loading;
    pages of a mapped file count while they are mapped.

    Args:
        mib: size of the weights in memory, in MiB, for every case.

    Returns:
        {"what", "machine", "settings", "results": [{"form", "stored", "loaded", "weights_mib", "peak_mib",
        "ratio"}]}.
    """
    rows = [measure(form, stored, loaded, mib=mib) for form, stored, loaded in CASES]
    return {
        "what": "peak memory of loading against the size of the weights",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "settings": {"mib": mib, "block_width": BLOCK_WIDTH, "shards": SHARDS},
        "results": rows,
    }


def measure(form: str, stored: str, loaded: str, *, mib: int) -> dict[str, Any]:
    """One case.

    Args:
        form: "safetensors", "shards" or "bin".
        stored: dtype in the file.
        loaded: dtype in memory.
        mib: size of the weights in memory, in MiB.
    """
    blocks = mib * 2**20 // (BLOCK_WIDTH**2 * getattr(torch, loaded).itemsize)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), form, blocks, getattr(torch, stored))
        tests = str(Path(__file__).parents[1])
        program = (
            f"import sys; sys.path.insert(0, {tests!r}); from benchmarks.bench_loading import _load; "
            f"_load({folder!r}, {blocks}, {loaded!r})"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {
        "form": form,
        "stored": stored,
        "loaded": loaded,
        "weights_mib": found["weights"] / 2**20,
        "peak_mib": found["peak"] / 2**20,
        "ratio": found["peak"] / found["weights"],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    machine, settings = report["machine"], report["settings"]
    lines = [
        f"{settings['mib']} MiB of weights in layers of {settings['block_width']} x {settings['block_width']}, "
        f"{settings['shards']} shards, torch {machine['torch']}; resident memory, Linux",
        "",
        "| file | dtype in the file | dtype in memory | weights | peak while loading | ratio |",
        "|---|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['form']} | {row['stored']} | {row['loaded']} | {row['weights_mib']:.0f} MiB "
        f"| {row['peak_mib']:.0f} MiB | {row['ratio']:.2f} |"
        for row in report["results"]
    ]
    return "\n".join(lines) + "\n"


def _write(folder: Path, form: str, blocks: int, dtype: torch.dtype) -> None:
    state = {f"{block}.weight": torch.ones(BLOCK_WIDTH, BLOCK_WIDTH, dtype=dtype) for block in range(blocks)}
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        weight_map = {}
        for shard in range(SHARDS):
            part = {name: state[name] for name in list(state)[shard::SHARDS]}
            save_file(part, folder / f"model-{shard}.safetensors")
            weight_map |= dict.fromkeys(part, f"model-{shard}.safetensors")
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))


def _load(folder: str, blocks: int, dtype: str) -> None:
    """Runs in the process that is measured: loads, looks at every page, and prints bytes as JSON."""
    with torch.device("meta"):
        model = nn.ModuleList(nn.Linear(BLOCK_WIDTH, BLOCK_WIDTH, bias=False) for _ in range(blocks))
    before = _resident("VmRSS")
    assign_weights(model, weight_files(Path(folder)), placement=Placement(dtype=getattr(torch, dtype)))
    # A weight that is mapped from the file is in memory when it is read.
    total = sum(float(weight.detach()[:, ::16].sum(dtype=torch.float64)) for weight in model.parameters())
    if total != blocks * BLOCK_WIDTH**2 / 16:
        raise RuntimeError("the weights in memory are not those of the file")
    weights = sum(weight.nbytes for weight in model.parameters())
    print(json.dumps({"weights": weights, "peak": _resident("VmHWM") - before}))


def _resident(field: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS now, VmHWM at most so far."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
