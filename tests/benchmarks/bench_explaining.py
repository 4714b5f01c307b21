"""Explaining all words of an answer against generating it: time and peak memory, as ratios in one run."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import torch

from dcam_core import Adapter, Explainer, Inputs, Trajectory, load_model
from dcam_core.denoising import denoise
from dcam_core.estimating import PeakTensorMemory
from dcam_core.probing.targets import select_targets
from dcam_core.probing.untouched import untouched

from .scenes_answers import answers
from .timing import median_milliseconds

__all__ = ["run", "to_markdown"]


def run(*, model: str = "tiny-llada-v", scenes: int = 8, repeats: int = 3) -> dict[str, Any]:
    """Measure both on the first scenes of the test split.

    Explaining takes its trajectory as given: replays, gradients, attribution and refinement of all words.

    Args:
        model: what `load_model` takes.
        scenes: number of scenes.
        repeats: timed repetitions per scene; the median counts.

    Returns:
        {"what", "machine", "settings", "results": [{"mask_step", "words", "states", "generate_ms",
        "explain_ms", "time_ratio", "generate_mib", "explain_mib", "memory_ratio"}]}, means over the scenes.
    """
    adapter = load_model(model)
    rows = [_measure(adapter, policy, scenes, repeats) for policy in ("commit", "infill", "first", "all")]
    return {
        "what": "explaining all words of an answer against generating it",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "settings": {"model": model, "scenes": scenes, "repeats": repeats, "method": "diffusion-cam"},
        "results": rows,
    }


def _measure(adapter: Adapter, policy: str, scenes: int, repeats: int) -> dict[str, Any]:
    explainer = Explainer(adapter, "diffusion-cam", overrides=[f"mask_step={policy}"])
    totals: dict[str, float] = {}
    for case in answers(adapter, "test", scenes):
        inputs, trajectory, answer = case.inputs, case.trajectory, case.answer
        targets = select_targets(answer, None)

        def generate(inputs: Inputs = inputs) -> Trajectory:
            with torch.no_grad(), untouched(adapter.model):
                return denoise(adapter, inputs, adapter.default_sampler)

        explain = functools.partial(explainer.explain_run, inputs, trajectory, answer, targets)
        explain()
        found = {
            "words": len(targets),
            "steps": trajectory.steps,
            "generate_ms": median_milliseconds(generate, repeats),
            "explain_ms": median_milliseconds(explain, repeats),
            "generate_mib": _peak_mib(generate),
            "explain_mib": _peak_mib(explain),
        }
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + value / scenes
    return {
        "mask_step": policy,
        **totals,
        "time_ratio": totals["explain_ms"] / totals["generate_ms"],
        "memory_ratio": totals["explain_mib"] / totals["generate_mib"],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    settings, machine = report["settings"], report["machine"]
    lines = [
        f"{settings['model']}, {settings['method']}, {settings['scenes']} scenes, {machine['threads']} threads, "
        f"torch {machine['torch']}; peak memory counts tensors, weights excluded",
        "",
        "| mask step | words | steps | generating | explaining all words | time ratio | peak memory ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['mask_step']} | {row['words']:.1f} | {row['steps']:.1f} | {row['generate_ms']:.0f} ms, "
        f"{row['generate_mib']:.1f} MiB | {row['explain_ms']:.0f} ms, {row['explain_mib']:.1f} MiB "
        f"| {row['time_ratio']:.2f} | {row['memory_ratio']:.2f} |"
        for row in report["results"]
    ]
    return "\n".join(lines) + "\n"


def _peak_mib(call: Callable[[], object]) -> float:
    with PeakTensorMemory() as memory:
        call()
    return memory.peak / 2**20
