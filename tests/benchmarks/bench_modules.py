"""What each published refinement module changes, where truth is known: as described by the paper, and as released.

Per model and reading: raw maps once, then every module alone on them, all together, and all but one. Reported are
paired differences of the measures, with intervals over scenes, and how much the maps themselves change. The token
grids of the embedded models are small: a window of 9 cells covers more of them than of a large model's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.scenes_answers import SceneAnswer, answers
from torch import Tensor

from dcam_core import Adapter, Explainer, default_manager, load_model
from dcam_core.evaluation.bootstrap import bootstrap_intervals
from dcam_core.evaluation.measures import Measure, measures
from dcam_core.probing.normalise import joint_min_max
from dcam_core.results.picture_maps import stretch_map

__all__ = ["run", "to_markdown"]

MODELS = ("tiny-llada-v", "tiny-lavida", "tiny-mmada")
READINGS = {"as described": "diffusion-cam", "as released": "diffusion-cam-reference"}
METRICS = ("obj-iou", "contrast-ratio", "energy-pointing-game", "mean-f3", "miou", "pointing-game")
GREY_LEVEL = 1 / 255
"""A change below it shows in no picture."""


def run(
    split: str = "test",
    scenes: int = 200,
    first: int = 0,
    models: Sequence[str] = MODELS,
    metrics: Sequence[str] = METRICS,
) -> dict[str, Any]:
    """Measure all modules.

    Args:
        split: split of the generated scenes.
        scenes: number of scenes.
        first: index of the first scene.
        models: embedded models.
        metrics: as `dcam evaluate` takes them.
    """
    columns = measures(default_manager().registries.metrics, metrics)
    report: dict[str, Any] = {
        "what": "what each published module changes",
        "settings": {"split": split, "scenes": scenes, "first": first, "metrics": list(metrics)},
        "models": {},
    }
    for name in models:
        model = load_model(name)
        cases = [case for case in answers(model, split, scenes, first=first) if case.named]
        report["models"][name] = {
            reading: _reading(model, preset, cases, columns) for reading, preset in READINGS.items()
        }
    return report


def _reading(
    model: Adapter, preset: str, cases: Sequence[SceneAnswer], columns: Sequence[Measure]
) -> dict[str, Any]:
    """All pipelines of one preset on the same raw maps."""
    full = Explainer(model, preset)
    modules = [name for name, parameters in full.method.refiners.items() if parameters is not None]
    pipelines = {
        "raw": (),
        **{f"{name} alone": (name,) for name in modules},
        "all": tuple(modules),
        **{f"all but {name}": tuple(other for other in modules if other != name) for name in modules},
    }
    explainers = {label: _with(model, preset, modules, kept) for label, kept in pipelines.items()}
    scores: dict[str, list[Tensor]] = {label: [] for label in pipelines}
    maps: dict[str, list[Tensor]] = {label: [] for label in pipelines}
    pictures: list[int] = []
    for number, case in enumerate(cases):
        targets = [named.target for named in case.named]
        probed = full.probe_run(case.inputs, case.trajectory, targets, pictures=[case.picture])
        pictures += [number] * len(targets)
        for label, explainer in explainers.items():
            made = explainer.refine_run(
                probed, case.trajectory, case.answer, targets, pictures=[case.picture]
            )
            finished = joint_min_max([made.maps])[0] if label == "raw" else made.maps
            maps[label].append(finished)
            scores[label].append(_scores(finished, case, columns))
    table = {label: torch.cat(found).numpy() for label, found in scores.items()}
    # What is added to what: a module to the raw maps, and a module to all the others.
    steps = {label: ("raw", label) for label in [*(f"{name} alone" for name in modules), "all"]}
    steps |= {f"{name} added to the others": (f"all but {name}", "all") for name in modules}
    names = [each.label for each in columns]
    return {
        "preset": preset,
        "layer": full.layer,
        "grid": list(maps["raw"][0].shape[1:]) if cases else [],
        "words": len(pictures),
        "scenes": len(cases),
        "raw": _with_intervals(table["raw"], pictures, names),
        "all": _with_intervals(table["all"], pictures, names),
        "changes": {
            label: {
                "scores": _with_intervals(table[after] - table[before], pictures, names),
                "maps": _map_change(maps[before], maps[after]),
            }
            for label, (before, after) in steps.items()
        },
    }


def _with(model: Adapter, preset: str, modules: Sequence[str], kept: Sequence[str]) -> Explainer:
    """The preset with some of its refiners."""
    left_out: Mapping[str, None] = dict.fromkeys(name for name in modules if name not in kept)
    return Explainer(model, preset, overrides={"refiners": left_out} if left_out else ())


def _scores(maps: Tensor, case: SceneAnswer, columns: Sequence[Measure]) -> Tensor:
    """[T, K] scores of T maps."""
    size = case.picture.size
    heat = torch.stack([stretch_map(each, size) for each in maps.float()])
    half_cell = round(size[0] / maps.shape[-1] / 2)
    return torch.stack([each.score(heat, case.masks, case.masks, half_cell) for each in columns], dim=-1)


def _map_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> dict[str, float]:
    """How much maps change, on the token grid, where they lie in [0, 1]."""
    moved = [(new - old).abs().flatten(1) for old, new in zip(before, after, strict=True)]
    most = torch.cat([each.amax(1) for each in moved])
    return {
        "mean_absolute_change": float(torch.cat([each.mean(1) for each in moved]).mean()),
        "largest_change": float(most.max()),
        "share_changed_at_all": float((most > 0).double().mean()),
        "share_changed_visibly": float((most > GREY_LEVEL).double().mean()),
    }


def _with_intervals(
    scores: np.ndarray, pictures: Sequence[int], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Metric -> mean with its 95 % interval; pictures are drawn, with all their words."""
    ends = bootstrap_intervals(scores, np.array(pictures, dtype=np.int64))
    means = np.nanmean(scores, axis=0)
    return {
        name: {"mean": float(means[k]), "low": float(ends[k, 0]), "high": float(ends[k, 1])}
        for k, name in enumerate(names)
    }


def to_markdown(report: dict[str, Any]) -> str:
    """A table per model and reading: the raw maps' scores, and below them what each step changes."""
    settings = report["settings"]
    names = settings["metrics"]
    head = ["", *names, "maps changed (> 1/255)", "mean change of a cell", "largest"]
    lines = [
        f"{settings['split']} split, {settings['scenes']} scenes from {settings['first']}; shape words of rightly "
        "named objects. Differences are paired, with 95 % intervals over scenes.",
    ]
    for model, readings in report["models"].items():
        for reading, found in readings.items():
            lines += [
                "",
                f"**`{model}`, {reading}** (`{found['preset']}` at `{found['layer']}`; grid "
                f"{'x'.join(map(str, found['grid']))}; {found['words']} words in {found['scenes']} scenes)",
                "",
                _pipes(head),
                _pipes(["---", *("--:" for _ in head[1:])]),
                _pipes(["raw maps", *(_figure(found["raw"][name], "") for name in names), "", "", ""]),
            ]
            for label, change in found["changes"].items():
                maps = change["maps"]
                cells = [_figure(change["scores"][name], "+") for name in names]
                changed = f"{maps['share_changed_at_all']:.0%} ({maps['share_changed_visibly']:.0%})"
                cells += [changed, f"{maps['mean_absolute_change']:.4f}", f"{maps['largest_change']:.3f}"]
                lines.append(_pipes([label, *cells]))
            lines.append(
                _pipes(["all, scores", *(_figure(found["all"][name], "") for name in names), "", "", ""])
            )
    return "\n".join(lines) + "\n"


def _figure(found: Mapping[str, float], sign: str) -> str:
    return f"{found['mean']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
