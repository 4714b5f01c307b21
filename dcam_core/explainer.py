"""The engine: a picture and a prompt in, an explanation out. It owns the order of the work, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

import dcam_core
from dcam_core.adapter import Adapter
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import ConfigurationError, PluginError
from dcam_core.method import Method, resolve_method
from dcam_core.models import load_model
from dcam_core.picture import read_picture
from dcam_core.plugins import default_manager
from dcam_core.probing.defaults import CORE_DEFAULTS
from dcam_core.probing.normalise import min_max
from dcam_core.probing.picture_grid import PictureGrid, select_views
from dcam_core.probing.probe import Probed, probe
from dcam_core.probing.readings import TargetReading, plan_readings
from dcam_core.probing.targets import Answer, Target, read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_core.refiner import Refiner, RefinerContext
from dcam_core.results.explanation import ExplainedTarget, Explanation
from dcam_core.results.record import answer_words, explained_target, model_identity, step_texts

if TYPE_CHECKING:
    from torch import nn

    from dcam_core.attribution import Attribution
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager
    from dcam_core.plugins.registry import Registry

__all__ = ["ExplainedRun", "Explainer", "Progress"]

M = TypeVar("M", bound="nn.Module")


class Progress(Protocol):
    """Hears how far the work is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called after every step of a stage.

        Args:
            stage: "denoising" (done and total are steps) or "explaining" (they are readings).
            done: how many are done.
            total: how many there are; denoising may end early.
        """


@dataclass(frozen=True, eq=False)
class ExplainedRun:
    """Maps for words of one recorded run.

    Attributes:
        targets: T records, one per map.
        raw: [T, H, W] float32 on the CPU, maps on the picture grid before refinement, not normalised.
        maps: [T, H, W] float32 on the CPU, in [0, 1].
    """

    targets: tuple[ExplainedTarget, ...]
    raw: Tensor
    maps: Tensor


class Explainer:
    """Explains a model's answers with one method.

    Args:
        model: a loaded model, or what `dcam_core.load_model` takes.
        method: name of a method preset, or path of a YAML file.
        overrides: settings laid over the method: "key=value" strings or a nested mapping.
        plugins: plugin objects, or functions named like a deciding hook; asked before all others.
        manager: the installed plugins; None: those that `dcam_core.default_manager` found.
        states_per_forward: how many replayed states share a forward pass; bounds peak memory.
        targets_per_backward: how many targets of one state share a vectorised backward pass; 1 needs the
            least memory.

    Raises:
        UnknownNameError: no such method, attribution or refiner.
        ConfigurationError: a setting is unknown or wrong.
    """

    def __init__(
        self,
        model: Adapter | str | Path,
        method: str | Path = "diffusion-cam",
        *,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        plugins: Iterable[object] = (),
        manager: PluginManager | None = None,
        states_per_forward: int = 8,
        targets_per_backward: int = 1,
    ) -> None:
        if states_per_forward < 1 or targets_per_backward < 1:
            raise ConfigurationError("states_per_forward and targets_per_backward must be at least 1")
        self.manager = manager or default_manager()
        self.model = model if isinstance(model, Adapter) else load_model(model, manager=self.manager)
        self.method = self._resolve(method, overrides)
        self._states_per_forward = states_per_forward
        self._targets_per_backward = targets_per_backward

        registries = self.manager.registries
        self._hooks = self.manager.engine_hooks(self.model.family, extra=plugins, defaults=CORE_DEFAULTS)
        self._attribution: Attribution = _build(
            registries.attributions, "attribution", _named(self.method.attribution)
        )
        self._refiners: list[tuple[str, Refiner]] = [
            (name, _build(registries.refiners, f"refiners.{name}", (name, parameters)))
            for name, parameters in self.method.refiners.items()
            if parameters is not None
        ]
        self._sampler = self.model.default_sampler.merged(self.method.sampler)
        self.layer = self._probe_layer()

    # -- the way of the data ---------------------------------------------------------------------------------

    def explain(
        self,
        image: Image.Image | str | Path,
        prompt: str,
        targets: Iterable[str | int] | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Explanation:
        """Let the model answer, and show where in the picture each target word came from.

        Args:
            image: a picture, or the path of one.
            prompt: what to ask.
            targets: words ("circle"), occurrences ("circle#2"), phrases ("red circle") or answer positions
                (5 or "@5"); None: all words of the answer.
            seed: seed of the sampler's random numbers (only drawn at a temperature above 0, or by random
                remasking).
            progress: called after every denoising step and every batch of replayed states.

        Returns:
            The explanation. Same inputs, seed and machine: the same maps, bit for bit, on the CPU.

        Raises:
            PictureError: the picture is missing or cannot be read.
            TargetError: a target is not in the answer; its words are listed.
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        picture = read_picture(image)
        settings = self._sampler.merged({"seed": seed})
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            inputs = self.model.prepare(picture, prompt)
            trajectory = self.model.denoise(inputs, settings, self._on_step(progress))
        answer = read_answer(trajectory.answer_ids, self.model.tokenizer)
        chosen = select_targets(answer, targets)
        run = self.explain_run(inputs, trajectory, answer, chosen, progress=progress)

        explanation = Explanation(
            picture=picture,
            prompt=prompt,
            answer=answer.text,
            words=answer_words(answer, trajectory),
            targets=run.targets,
            raw=run.raw,
            maps=run.maps,
            settings=self._settings(trajectory),
            seed=seed,
            model=model_identity(self.model),
            versions={
                "dcam": dcam_core.__version__,
                "torch": str(torch.__version__),
                "plugins": self.manager.versions(),
            },
            steps=step_texts(self.model, trajectory),
        )
        self._hooks.observe("dcam_explained", explanation=explanation)
        return explanation

    def explain_run(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        answer: Answer,
        targets: Sequence[Target],
        *,
        progress: Progress | None = None,
    ) -> ExplainedRun:
        """Explain words of an answer that the model has already written.

        What `explain` does after denoising: for callers that keep the trajectory, to explain it in several
        ways or to measure.

        Args:
            inputs: the prepared prompt.
            trajectory: the recorded run.
            answer: its answer, from `dcam_core.probing.targets.read_answer`.
            targets: words of it, from `dcam_core.probing.targets.select_targets`.
            progress: called after every batch of replayed states.

        Raises:
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        with torch.inference_mode(False), untouched(self.model.model):
            readings = plan_readings(self._hooks, self.method, self.model, targets, trajectory)
            raw, scores, log_probabilities = self._probe(inputs, trajectory, readings, len(targets), progress)
            with torch.no_grad():
                maps = self._refine(raw, trajectory, answer)
        raw, maps = raw.cpu(), maps.cpu()
        self._hooks.observe("dcam_maps_made", targets=targets, raw=raw, maps=maps)
        explained = self._explained(targets, trajectory, readings, raw, scores, log_probabilities)
        return ExplainedRun(explained, raw, maps)

    def _on_step(self, progress: Progress | None) -> Any:
        def on_step(step: DenoisingStep) -> None:
            self._hooks.observe("dcam_denoising_step", step=step, adapter=self.model)
            if progress is not None:
                progress("denoising", step.index + 1, step.total)

        return on_step

    def _probe(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        readings: Sequence[TargetReading],
        targets: int,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raw maps [T, H, W], and score and log-probability of every reading."""
        views = select_views(inputs, self.method.views)
        grid = PictureGrid.over(views, inputs.picture_sizes[0])
        raw = torch.zeros(targets, grid.rows, grid.cols, device=inputs.embeddings.device)
        scores, log_probabilities = torch.zeros(len(readings)), torch.zeros(len(readings))
        done = 0
        batches = probe(
            self.model,
            inputs,
            self.layer,
            [item.reading for item in readings],
            grid.positions,
            trajectory.settings,
            states_per_forward=self._states_per_forward,
            targets_per_backward=self._targets_per_backward,
        )
        for probed in batches:
            with torch.no_grad():
                maps = grid.lay(self._attribute(probed))
                order = list(probed.readings)
                weights = torch.tensor([readings[i].weight for i in order], device=raw.device)
                owners = torch.tensor([readings[i].target for i in order], device=raw.device)
                raw.index_add_(0, owners, maps * weights[:, None, None])
            scores[order] = probed.scores.cpu()
            log_probabilities[order] = probed.log_probabilities.cpu()
            done += len(order)
            if progress is not None:
                progress("explaining", done, len(readings))
        return raw, scores, log_probabilities

    def _attribute(self, probed: Probed) -> Tensor:
        """Raw evidence per image token, checked."""
        name = self.method.attribution["name"]
        values: Tensor = self._attribution(probed.activations, probed.gradients)
        expected = probed.activations.shape[:2]
        if values.shape != expected:
            raise PluginError(
                name, f"attribution {name!r} gave {list(values.shape)}, expected {list(expected)}"
            )
        if not values.isfinite().all():
            raise PluginError(
                name,
                f"attribution {name!r} gave values that are not finite at {self.layer!r}: "
                "load the model with dtype=float32, or probe an earlier layer",
            )
        return values

    def _refine(self, raw: Tensor, trajectory: Trajectory, answer: Answer) -> Tensor:
        """[T, H, W] maps in [0, 1]: normalised, then through the refiners in order."""
        maps = min_max(raw)
        context = RefinerContext(
            raw=maps,
            denoising_steps=trajectory.steps,
            image_size=self.model.image_size,
            answer_ids=answer.token_ids,
            padding_ids=tuple(trajectory.final[trajectory.answer_length :].tolist()),
        )
        for name, refiner in self._refiners:
            refined = refiner(maps, context)
            if refined.shape != maps.shape or not refined.isfinite().all():
                raise PluginError(
                    name,
                    f"refiner {name!r} gave {list(refined.shape)} with "
                    f"{int((~refined.isfinite()).sum())} values that are not finite, expected finite "
                    f"{list(maps.shape)}",
                )
            maps = refined
        return maps.clamp(0, 1)

    def _explained(
        self,
        targets: Sequence[Target],
        trajectory: Trajectory,
        readings: Sequence[TargetReading],
        raw: Tensor,
        scores: Tensor,
        log_probabilities: Tensor,
    ) -> tuple[ExplainedTarget, ...]:
        """The records of all targets."""
        records = []
        for index, target in enumerate(targets):
            own = [i for i, item in enumerate(readings) if item.target == index]
            notes = [
                f"step {readings[i].step} is not structurally valid: {readings[i].invalid}; its state was replayed "
                "in full"
                for i in own
                if readings[i].invalid
            ]
            if raw[index].max() == raw[index].min():
                value = "zero" if raw[index].max() == 0 else "the same"
                notes.append(
                    f"the map is {value} everywhere: at {self.layer} nothing in the picture spoke for this word "
                    "more than anything else"
                )
            records.append(
                explained_target(
                    target,
                    trajectory,
                    [readings[i] for i in own],
                    scores[own],
                    log_probabilities[own],
                    policy=str(self.method.mask_step),
                    notes=notes,
                )
            )
        return tuple(records)

    def _settings(self, trajectory: Trajectory) -> dict[str, Any]:
        """The merged configuration, with what was left open filled in."""
        sampler = dataclasses.asdict(trajectory.settings)
        return {**self.method.as_dict(), "probe_layer": self.layer, "sampler": sampler}

    # -- putting the engine together -------------------------------------------------------------------------

    def _resolve(self, method: str | Path, overrides: Sequence[str] | Mapping[str, Any]) -> Method:
        """The preset or file, with the checkpoint's measured defaults and the overrides."""
        text = str(method)
        is_file = isinstance(method, Path) or text.endswith((".yaml", ".yml"))
        path = Path(text) if is_file else Path(self.manager.registries.methods.get(text))
        name = path.stem if is_file else text
        return resolve_method(name, path, checkpoint=self.model.folder, overrides=overrides)

    def _probe_layer(self) -> str:
        """Module path of the probed module."""
        layer = self.method.probe_layer
        if layer is None:
            layer = self._hooks.decide("dcam_probe_layer", adapter=self.model, method=self.method.as_dict())
        return self.model.layer_path(layer)


def _named(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A `{name: ..., parameters...}` mapping taken apart."""
    return str(settings["name"]), {key: value for key, value in settings.items() if key != "name"}


def _build(registry: Registry[type[M]], where: str, named: tuple[str, Mapping[str, Any]]) -> M:
    """Make an attribution or refiner with the method's parameters."""
    name, parameters = named
    kind = registry.get(name)
    try:
        return kind(**parameters)
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: {name!r} cannot be made with {dict(parameters)}: {error}"
        ) from error
