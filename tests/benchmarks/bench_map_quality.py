"""Where the embedded model's maps lie: per policy and layer, per attribution, and for the shipped methods."""

from __future__ import annotations

from typing import Any

from benchmarks.map_quality import MEASURES, measure_methods, probe_layers, sweep

from dcam_core import load_model

__all__ = ["run", "to_markdown"]

POLICIES = ("commit", "first", "last", "all", "infill", "final")
METHODS = ("grad-cam", "diffusion-cam", "diffusion-cam-reference")


def run(
    *,
    model: str = "tiny-llada-v",
    split: str = "test",
    scenes: int = 200,
    sweep_scenes: int = 40,
    first: int = 0,
    attributions: tuple[str, ...] = ("grad-cam", "hires-cam", "grad-times-input"),
) -> dict[str, Any]:
    """Measure the shipped methods, and raw maps for every policy and layer.

    Args:
        model: what `load_model` takes.
        split: split of the generated scenes.
        scenes: scenes for the shipped methods.
        sweep_scenes: scenes for the sweep over policies and layers.
        first: index of the first scene.
        attributions: attributions of the sweep, with their default parameters.
    """
    adapter = load_model(model)
    methods = measure_methods(adapter, split, scenes, [(name, name, ()) for name in METHODS], first=first)
    swept = sweep(
        adapter,
        split,
        sweep_scenes,
        attributions={name: (name, {}) for name in attributions},
        policies=POLICIES,
        layers=probe_layers(adapter),
        first=first,
    )
    return {
        "what": "where maps of correctly named objects lie",
        "settings": {
            "model": model,
            "split": split,
            "first": first,
            "scenes": scenes,
            "sweep_scenes": sweep_scenes,
        },
        "methods": methods,
        "sweep": swept,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """Two tables: methods with the baselines, and the best layer of every attribution and policy."""
    settings = report["settings"]
    head = "| IoU (Otsu) | pointing, strict | pointing, half a cell | energy inside |"
    rule = "--:|--:|--:|--:|"
    lines = [
        f"{settings['model']}, {settings['split']} split, {settings['scenes']} scenes; "
        "maps of the shape words of correctly named objects; mean, standard error in brackets",
        "",
        f"| method | maps {head}",
        f"|---|--:|{rule}",
        *(f"| {row['method']} | {row['maps']} | {_measures(row)} |" for row in report["methods"]),
        "",
        f"Raw maps, {settings['sweep_scenes']} scenes, the layer with the highest IoU for each:",
        "",
        f"| attribution | mask step | probe layer {head}",
        f"|---|---|---|{rule}",
    ]
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in report["sweep"]:
        key = (row["attribution"], row["mask_step"])
        if row["mask_step"] and (key not in best or row["iou"] > best[key]["iou"]):
            best[key] = row
    lines += [
        f"| {row['attribution']} | {row['mask_step']} | `{row['probe_layer']}` | {_measures(row)} |"
        for row in best.values()
    ]
    for attribution in dict.fromkeys(row["attribution"] for row in report["sweep"] if row["mask_step"]):
        lines += [
            "",
            f"IoU of raw `{attribution}` maps per layer and mask step:",
            "",
            *_matrix(report, attribution),
        ]
    return "\n".join(lines) + "\n"


def _matrix(report: dict[str, Any], attribution: str) -> list[str]:
    """IoU of one attribution, layers down and policies across."""
    rows = [row for row in report["sweep"] if row["attribution"] == attribution]
    cell = {(row["probe_layer"], row["mask_step"]): f"{row['iou']:.2f}" for row in rows}
    policies = list(dict.fromkeys(row["mask_step"] for row in rows))
    layers = list(dict.fromkeys(row["probe_layer"] for row in rows))
    return [
        f"| probe layer | {' | '.join(policies)} |",
        f"|---|{'--:|' * len(policies)}",
        *(f"| `{layer}` | {' | '.join(cell[layer, policy] for policy in policies)} |" for layer in layers),
    ]


def _measures(row: dict[str, Any]) -> str:
    return " | ".join(f"{row[name]:.3f} ({row[f'{name}_se']:.3f})" for name in MEASURES)
