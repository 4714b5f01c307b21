"""How well visual reliance tells words that the picture grounds from words that it does not.

On generated scenes, with the models' own sampler. Grounded: colour and shape words of objects that are there and were
named, and "yes" about one that is there. Not grounded: "a", "an" and "and" in the same captions, and "no" about a
shape that is absent. `split=train first=60000 count=20` is what the default threshold and the embedded models'
baseline pictures were chosen on (scenes that the models were not trained on); the defaults here are held out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dcam_adapters.embedded.training.conversations import DESCRIBE
from dcam_core import Explainer
from dcam_core.probing.reliance import GROUNDED_ABOVE
from dcam_core.probing.targets import all_words, read_answer
from dcam_core.probing.untouched import untouched
from dcam_plugins.scenes import Scene, Scenes

MODELS = ("tiny-llada-v", "tiny-lavida", "tiny-mmada")
FUNCTION_WORDS = ("a", "an", "and")
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4)
BASELINES: Mapping[str, Sequence[str] | None] = {
    "the model's own": None,
    "mean-colour, blur": ("mean-colour", "blur"),
}


def run(
    split: str = "test", first: int = 0, count: int = 40, models: Sequence[str] = MODELS
) -> dict[str, Any]:
    """Areas under the ROC curve, shares told right over thresholds, and cost.

    Args:
        split: split of the generated scenes.
        first: index of the first scene.
        count: number of scenes.
        models: embedded models.
    """
    scenes = Scenes(split, first + count)
    chosen = [scenes[index] for index in range(first, first + count)]
    report: dict[str, Any] = {"split": split, "first": first, "count": count, "models": {}}
    for model in models:
        explainer = Explainer(model, "diffusion-cam")  # of which its cost is a share
        measured = _measure(explainer, chosen)
        told = {label: _told_apart(found) for label, found in measured.items()}
        report["models"][model] = told | {"cost": _cost(explainer, chosen[:5])}
    return report


def _measure(explainer: Explainer, scenes: Sequence[Scene]) -> dict[str, dict[str, list[float]]]:
    """For each choice of baseline pictures: kind of word -> reliance of all words of that kind."""
    found: dict[str, dict[str, list[float]]] = {label: defaultdict(list) for label in BASELINES}
    for number, scene in enumerate(scenes):
        names = {word for thing in scene.objects for word in (thing.shape, thing.colour)}
        absent = sorted(set(Scenes.shapes) - names)
        kinds = dict.fromkeys(names, "name") | dict.fromkeys(FUNCTION_WORDS, "function word")
        for prompt, kind_of in (
            (DESCRIBE[0], kinds),
            (_is_there(scene.objects[0].shape), {"yes": "yes"}),
            (_is_there(absent[number % len(absent)]), {"no": "no"}),
        ):
            for label, words in _reliance(explainer, scene, prompt).items():
                for word, nats in words:
                    if word in kind_of:
                        found[label][kind_of[word]].append(nats)
    return found


def _is_there(shape: str) -> str:
    return f"is there {'an' if shape[0] in 'aeiou' else 'a'} {shape} ?"


def _reliance(explainer: Explainer, scene: Scene, prompt: str) -> dict[str, list[tuple[str, float]]]:
    """For each choice of baseline pictures: (word, reliance) of the model's answer, which is written once."""
    model = explainer.model
    with torch.no_grad(), untouched(model.model):
        inputs = model.prepare(scene.image, prompt)
        trajectory = model.denoise(inputs, model.default_sampler)
    words = all_words(read_answer(trajectory.answer_ids, model.tokenizer))
    return {
        label: [
            (item.word, item.nats)
            for item in explainer.visual_reliance(
                [scene.image], inputs, trajectory, words, baselines=baselines
            ).words
        ]
        for label, baselines in BASELINES.items()
    }


def _told_apart(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """How well the kinds of words are told apart."""
    values = {kind: torch.tensor(nats) for kind, nats in found.items()}
    grounded = torch.cat([values["name"], values["yes"]])
    others = torch.cat([values["function word"], values["no"]])
    return {
        "words": {kind: len(nats) for kind, nats in values.items()},
        "median": {kind: float(nats.median()) for kind, nats in values.items()},
        "auc": {
            "names / function words": _auc(values["name"], values["function word"]),
            "names / no": _auc(values["name"], values["no"]),
            "yes / no": _auc(values["yes"], values["no"]),
            "all": _auc(grounded, others),
        },
        "thresholds": {
            str(at): [float((grounded >= at).double().mean()), float((others < at).double().mean())]
            for at in (*THRESHOLDS, GROUNDED_ABOVE)
        },
    }


def _auc(grounded: Tensor, others: Tensor) -> float:
    """Probability that a grounded word has more reliance than another; ties count half."""
    above = (grounded[:, None] > others).double() + 0.5 * (grounded[:, None] == others).double()
    return float(above.mean())


def _cost(explainer: Explainer, scenes: Sequence[Scene]) -> dict[str, float]:
    """Seconds per caption: writing it, measuring reliance, and explaining all its words."""
    stages: dict[str, float] = defaultdict(float)

    for scene in scenes:
        before = time.perf_counter()

        def on_progress(stage: str, done: int, total: int) -> None:
            nonlocal before
            now = time.perf_counter()
            stages[stage] += now - before
            before = now

        explainer.explain(scene.image, DESCRIBE[0], targets="all", progress=on_progress)
    return {stage: seconds / len(scenes) for stage, seconds in stages.items()}


def to_markdown(report: dict[str, Any]) -> str:
    """Two tables: AUCs, and shares told right at the default threshold with the cost."""
    lines = [
        f"{report['count']} scenes of the {report['split']} split, from {report['first']}.\n",
        "| model | baseline pictures | names / function words | names / no | yes / no | all | grounded found | "
        "others found |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model, parts in report["models"].items():
        for label in BASELINES:
            part = parts[label]
            areas = " | ".join(f"{area:.3f}" for area in part["auc"].values())
            shares = " | ".join(f"{share:.1%}" for share in part["thresholds"][str(GROUNDED_ABOVE)])
            lines.append(f"| `{model}` | {label} | {areas} | {shares} |")
    lines += ["", "| model | writing | measuring reliance | explaining every word |", "|---|--:|--:|--:|"]
    for model, parts in report["models"].items():
        cost = parts["cost"]
        names = ("denoising", "measuring", "explaining")
        lines.append(f"| `{model}` | " + " | ".join(f"{cost[name]:.2f} s" for name in names) + " |")
    return "\n".join(lines) + "\n"
