"""Where the maps of correctly named objects lie, per attribution, mask-step policy and probe layer.

Every object that the model names rightly (colour and shape) gives one map, that of its shape word. Measured
on the picture: IoU at Otsu's threshold, pointing game (strict, and with half a grid cell of tolerance),
energy inside the object; beside a random map, a centre prior, and the object's own mask seen through the
token grid (the best that the grid allows).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.scenes_answers import SceneAnswer, answers
from torch import Tensor

from dcam_core import Adapter, Explainer, default_manager
from dcam_core.method import Method
from dcam_core.probing.defaults import CORE_DEFAULTS
from dcam_core.probing.normalise import joint_min_max
from dcam_core.probing.picture_grid import PictureGrid
from dcam_core.probing.probe import probe
from dcam_core.probing.readings import plan_readings
from dcam_core.probing.untouched import untouched
from dcam_core.results.explanation import stretch_map
from dcam_plugins.metrics import energy_inside, intersection_over_union, pointing

__all__ = ["MEASURES", "measure_methods", "probe_layers", "sweep"]

MEASURES = ("iou", "point", "point_half_cell", "energy")


def probe_layers(model: Adapter) -> list[str]:
    """Module paths worth trying: every block's norms and its output."""
    layers = []
    for index in range(len(model.blocks)):
        path = model.layer_path(index)
        layers += [f"{path}.{name}" for name, _ in model.blocks[index].named_children() if "norm" in name]
        layers.append(path)
    return layers


def score(grids: Tensor, case: SceneAnswer, columns: int | None = None) -> Tensor:
    """[T, 4] the measures of T maps, each against its object.

    Args:
        grids: [T, H, W] maps.
        case: the scene.
        columns: columns of the token grid; None: those of the maps.
    """
    size = case.picture.size
    heat = torch.stack([stretch_map(grid, size) for grid in joint_min_max([grids])[0]])
    masks = case.masks
    half_cell = round(size[0] / (columns or grids.shape[-1]) / 2)
    measures = [
        intersection_over_union(heat, masks),
        pointing(heat, masks).double(),
        pointing(heat, masks, half_cell).double(),
        energy_inside(heat, masks),
    ]
    return torch.stack(measures, -1)


def baselines(case: SceneAnswer, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Maps that know nothing, and the mask itself on the token grid."""
    count, (rows, cols) = len(case.named), grid
    # A map of its own for every scene: one map for all would be one draw, however many scenes there are.
    generator = torch.Generator().manual_seed(case.index)
    y, x = torch.linspace(-1, 1, rows)[:, None], torch.linspace(-1, 1, cols)
    centre = torch.exp(-(x.square() + y.square()) / 0.5).expand(count, rows, cols)
    return {
        "random": torch.rand(count, rows, cols, generator=generator),
        "centre prior": centre,
        "mask on the token grid": F.adaptive_avg_pool2d(case.masks.float(), (rows, cols)),
    }


def sweep(
    model: Adapter,
    split: str,
    count: int,
    *,
    attributions: Mapping[str, tuple[str, Mapping[str, Any]]],
    policies: Sequence[str | int],
    layers: Sequence[str],
    first: int = 0,
    gradient_target: str = "logit",
    views: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Mean measures of raw maps for every combination; states and gradients are shared by the attributions.

    Args:
        model: the model.
        split: split of the generated scenes.
        count: number of scenes.
        attributions: label -> (name, parameters).
        policies: mask-step policies.
        layers: module paths.
        first: index of the first scene.
        gradient_target: name of the gradient target.
        views: views that contribute; None: all.
    """
    manager = default_manager()
    built = {
        label: manager.registries.attributions.get(name)(**parameters)
        for label, (name, parameters) in attributions.items()
    }
    hooks = manager.engine_hooks(model.family, defaults=CORE_DEFAULTS)
    totals: dict[tuple[str, str, str], list[Tensor]] = defaultdict(list)
    for case in answers(model, split, count, first=first):
        if not case.named:
            continue
        chosen = [v for v in case.inputs.views if views is None or v.name in views]
        grid = PictureGrid.over(chosen, case.picture.size)
        for label, maps in baselines(case, (grid.rows, grid.cols)).items():
            totals[label, "", ""].append(score(maps, case))
        for policy in policies:
            method = Method("sweep", mask_step=policy, gradient_target={"name": gradient_target})
            wanted = [named.target for named in case.named]
            plan = plan_readings(hooks, method, model, wanted, case.trajectory)
            readings = [item.reading for item in plan]
            for layer in layers:
                maps = {label: torch.zeros(len(case.named), grid.rows, grid.cols) for label in built}
                with untouched(model.model):
                    for probed in probe(
                        model, case.inputs, layer, readings, grid.positions, case.trajectory.settings
                    ):
                        share = torch.tensor([plan[i].weight for i in probed.readings])[:, None, None]
                        index = torch.tensor([plan[i].target for i in probed.readings])
                        for label, attribution in built.items():
                            with torch.no_grad():
                                laid = grid.lay(attribution(probed.activations, probed.gradients))
                            maps[label].index_add_(0, index, laid * share)
                for label, raw in maps.items():
                    totals[label, str(policy), layer].append(score(raw, case))
    return [
        _row({"attribution": label, "mask_step": policy, "probe_layer": layer}, scores)
        for (label, policy, layer), scores in totals.items()
    ]


def measure_methods(
    model: Adapter,
    split: str,
    count: int,
    methods: Iterable[tuple[str, str, Sequence[str]]],
    *,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Mean measures of finished maps, made by the engine. All methods explain the same recorded answer.

    Args:
        model: the model.
        split: split of the generated scenes.
        count: number of scenes.
        methods: (label, method, overrides); overrides of the sampler have no effect here.
        first: index of the first scene.
    """
    explainers = [
        (label, Explainer(model, method, overrides=settings)) for label, method, settings in methods
    ]
    totals: dict[str, list[Tensor]] = defaultdict(list)
    for case in answers(model, split, count, first=first):
        if not case.named:
            continue
        wanted = [named.target for named in case.named]
        for label, explainer in explainers:
            run = explainer.explain_run(
                case.inputs, case.trajectory, case.answer, wanted, pictures=[case.picture]
            )
            totals[label].append(score(run.maps, case, run.raw.shape[-1]))
        for label, maps in baselines(case, tuple(run.raw.shape[1:])).items():
            totals[label].append(score(maps, case))
    return [_row({"method": label}, scores) for label, scores in totals.items()]


def _row(facts: dict[str, Any], scores: Sequence[Tensor]) -> dict[str, Any]:
    """Mean and standard error of the measures over all maps."""
    values = torch.cat(list(scores))
    means = values.mean(0).tolist()
    errors = (values.std(0) / len(values) ** 0.5).tolist() if len(values) > 1 else [float("nan")] * len(means)
    return {
        **facts,
        "maps": len(values),
        **dict(zip(MEASURES, means, strict=True)),
        **{f"{name}_se": value for name, value in zip(MEASURES, errors, strict=True)},
    }
