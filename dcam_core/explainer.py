"""The engine: a picture and a prompt in, an explanation out. It owns the order of the work, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

import dcam_core
from dcam_core.adapter import Adapter, Layer
from dcam_core.choices import Choices
from dcam_core.denoising.given import given_trajectory
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import ConfigurationError, DcamError, PluginError
from dcam_core.method import Method, names_setting, resolve_method
from dcam_core.models import load_model
from dcam_core.picture import read_pictures
from dcam_core.plugins import default_manager
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import layer_paths, refuse_infinite
from dcam_core.probing.attributing import attribute
from dcam_core.probing.baseline_pictures import Baseline, default_baselines, stand_ins
from dcam_core.probing.defaults import CORE_DEFAULTS, NamedProbeLayer
from dcam_core.probing.picture_grid import picture_grids
from dcam_core.probing.readings import TargetReading, plan_readings
from dcam_core.probing.refining import refine
from dcam_core.probing.reliance import GROUNDED_ABOVE, measure_reliance
from dcam_core.probing.replacing import replaced
from dcam_core.probing.replays import Replays
from dcam_core.probing.targets import Answer, Target, all_words, read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_core.refiner import Refiner
from dcam_core.results.explanation import Explanation
from dcam_core.results.picture_maps import PictureMaps
from dcam_core.results.record import answer_words, decided_by, explained_targets, model_identity, step_texts
from dcam_core.results.run import ExplainedRun, RunMaps

if TYPE_CHECKING:
    from torch import nn

    from dcam_core.attribution import Attribution, ModelAttribution
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager
    from dcam_core.plugins.registry import Registry
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.results.reliance import VisualReliance

__all__ = ["ExplainedRun", "Explainer", "Progress"]

M = TypeVar("M", bound="nn.Module")


class Progress(Protocol):
    """Hears how far the work is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called after every step of a stage.

        Args:
            stage: "denoising" (done and total are steps), "measuring" the words' reliance on the picture (they are
                replays) or "explaining" (they are readings).
            done: how many are done.
            total: how many there are; denoising may end early.
        """


class Explainer:
    """Explains a model's answers with one method.

    Args:
        model: a loaded model, or what `dcam_core.load_model` takes.
        method: name of a method preset, or path of a YAML file.
        overrides: settings laid over the method: "key=value" strings or a nested mapping.
        plugins: plugin objects, or functions named like the hook that they answer; asked before all others.
        probe_layer: a block number, fraction of depth or module path, or a list of them, whose maps are averaged; or
            a function that chooses, with any of the arguments of the hook `dcam_probe_layer` (`adapter`, `method`).
        mask_step: name of a policy or number of a step; or a function that gives the `ProbeState`s to replay, with
            any of the arguments of `dcam_mask_step` (`policy`, `target`, `trajectory`, `adapter`).
        gradient_target: name of a gradient target, or a mapping of its `name` and parameters; or a function that
            gives a `GradientTarget`, with any of the arguments of `dcam_gradient_target` (`name`, `parameters`,
            `target`, `adapter`, `trajectory`).
        manager: the installed plugins; None: those that `dcam_core.default_manager` found.
        states_per_forward: how many replayed states share a forward pass; bounds peak memory.
        targets_per_backward: how many targets of one state share a vectorised backward pass; 1 needs the
            least memory.

    Values of these three are stronger than `overrides`. Their functions are asked before `plugins`; one that
    answers None passes the question on, and is asked by the name of the method's own setting.

    Raises:
        UnknownNameError: no such method, attribution or refiner.
        ConfigurationError: a setting is unknown or wrong.
        PluginError: a plugin or function does not fit its hook, or its answer is of no use.
    """

    def __init__(
        self,
        model: Adapter | str | Path,
        method: str | Path = "diffusion-cam",
        *,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        plugins: Iterable[object] = (),
        probe_layer: Layer | Sequence[Layer] | Callable[..., Layer | Sequence[Layer] | None] | None = None,
        mask_step: str | int | Callable[..., Sequence[ProbeState] | None] | None = None,
        gradient_target: str | Mapping[str, Any] | Callable[..., GradientTarget | None] | None = None,
        manager: PluginManager | None = None,
        states_per_forward: int = 8,
        targets_per_backward: int = 1,
    ) -> None:
        if states_per_forward < 1 or targets_per_backward < 1:
            raise ConfigurationError("states_per_forward and targets_per_backward must be at least 1")
        self.manager = manager or default_manager()
        self.model = model if isinstance(model, Adapter) else load_model(model, manager=self.manager)
        self._choices = Choices.of(
            probe_layer=probe_layer, mask_step=mask_step, gradient_target=gradient_target
        )
        self.method = self._choices.applied_to(self._resolve(method, overrides))
        self._mask_step_chosen = mask_step is not None or names_setting(overrides, "mask_step")
        self._states_per_forward = states_per_forward
        self._targets_per_backward = targets_per_backward

        registries = self.manager.registries
        named = self.method.probe_layer
        self._hooks = self.manager.engine_hooks(
            self.model.family,
            extra=plugins,
            functions=self._choices.by_hook,
            settings=() if named is None else (NamedProbeLayer(named),),
            defaults=CORE_DEFAULTS,
        )
        self._attribution: tuple[str, Attribution | ModelAttribution] = _build(
            registries.attributions, "attribution", *_named(self.method.attribution)
        )
        self._refiners: list[tuple[str, Refiner]] = [
            _build(registries.refiners, f"refiners.{name}", name, parameters)
            for name, parameters in self.method.refiners.items()
            if parameters is not None
        ]
        self._sampler = self.model.default_sampler.merged(self.method.sampler)
        decision = self._hooks.decide("dcam_probe_layer", adapter=self.model, method=self.method.as_dict())
        if decision is None:
            raise ConfigurationError("nobody names a layer to probe: set probe_layer")
        self._layer_decision = decision
        self.layers = layer_paths(decision, self.model)

    @property
    def layer(self) -> str | list[str]:
        """The probed module's path as a method would name it; a list of several."""
        return self.layers[0] if len(self.layers) == 1 else list(self.layers)

    # -- the way of the data ---------------------------------------------------------------------------------

    def explain(
        self,
        image: Image.Image | str | Path | Sequence[Image.Image | str | Path],
        prompt: str,
        targets: Iterable[str | int] | None = None,
        *,
        answer: str | None = None,
        why_not: str | None = None,
        baselines: Sequence[Baseline] | None = None,
        grounded_above: float = GROUNDED_ABOVE,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Explanation:
        """Let the model answer, and show where in the picture each target word came from.

        Args:
            image: a picture, or the path of one; or several for one prompt, in the order in which the model
                reads them: then every target gets a map over each.
            prompt: what to ask.
            targets: words ("circle"), occurrences ("circle#2"), phrases ("red circle") or answer positions
                (5 or "@5"); "all": all words of the answer; None: those that depend on the picture.
            answer: what is explained as the model's answer: any caption. None: what the model answers.
            why_not: words that stand in the place of the one target, in the answer that is explained: what in the
                picture would have spoken for them there.
            baselines: what stands in the picture's place when it is measured how much each word depends on it:
                "mean-colour", "blur", pictures, or paths of pictures and of folders of pictures. None: the pictures
                that the checkpoint brings, or else "mean-colour" and "blur". Empty: it is not measured, and None in
                `targets` means all words.
            grounded_above: nats that a word's visual reliance must reach for the word to be called grounded in the
                picture.
            seed: seed of the sampler's random numbers (only drawn at a temperature above 0, or by random
                remasking).
            progress: called after every denoising step and every batch of replayed states.

        Returns:
            The explanation. Same inputs, seed and machine: the same maps, bit for bit, on the CPU.

        Raises:
            PictureError: a picture is missing or cannot be read.
            TargetError: a target is not in the answer; its words are listed.
            UsageError: the answer that was given cannot be read by the model.
            ConfigurationError: there is no such baseline.
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        pictures = read_pictures(image)
        settings = self._sampler.merged({"seed": seed})
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            inputs = self._prepare(pictures, prompt)
            if answer is None:
                trajectory = self.model.denoise(inputs, settings, self._on_step(progress))
            else:
                trajectory = given_trajectory(self.model, answer, settings)
        written = read_answer(trajectory.answer_ids, self.model.tokenizer)
        given = {} if answer is None else {"given_answer": written.text}
        if why_not is None:
            chosen = select_targets(written, None if targets == "all" else targets)
        else:
            change = replaced(written, select_targets(written, targets or ()), why_not)
            given |= {"why_not": why_not, "in_place_of": change.said, "said": written.text}
            trajectory = given_trajectory(self.model, change.text, settings)
            written = read_answer(trajectory.answer_ids, self.model.tokenizer)
            chosen = (change.target(written),)
        reliance = None
        if baselines is None or len(baselines):
            asked = tuple(dict.fromkeys((*all_words(written), *chosen)))
            reliance = self.visual_reliance(
                pictures,
                inputs,
                trajectory,
                asked,
                baselines=baselines,
                grounded_above=grounded_above,
                progress=progress,
            )
            if targets is None:
                places = {item.positions for item in reliance.grounded}
                every, chosen = chosen, tuple(target for target in chosen if target.positions in places)
                if not chosen:
                    # A setting that is wrong must be told even where it would not have been used.
                    plan_readings(self._hooks, self._method_for(trajectory), self.model, every, trajectory)
        run = self.explain_run(inputs, trajectory, written, chosen, pictures=pictures, progress=progress)

        explanation = Explanation(
            pictures=tuple(
                PictureMaps(picture, *part) for picture, part in zip(pictures, run.pictures, strict=True)
            ),
            prompt=prompt,
            answer=written.text,
            words=answer_words(written, trajectory),
            targets=run.targets,
            settings=self._settings(trajectory, run.decided_by) | given,
            seed=seed,
            model=model_identity(self.model),
            versions={
                "dcam": dcam_core.__version__,
                "torch": str(torch.__version__),
                "plugins": self.manager.versions(),
            },
            steps=step_texts(self.model, trajectory),
            reliance=reliance,
        )
        self._hooks.observe("dcam_explained", explanation=explanation)
        return explanation

    def visual_reliance(
        self,
        pictures: Sequence[Image.Image],
        inputs: Inputs,
        trajectory: Trajectory,
        targets: Sequence[Target],
        *,
        baselines: Sequence[Baseline] | None = None,
        grounded_above: float = GROUNDED_ABOVE,
        progress: Progress | None = None,
    ) -> VisualReliance:
        """How much words of an answer depend on the picture.

        Every word is hidden in the finished answer, and its log-probability read with the picture and with each
        baseline picture in its place: one batched replay for each, without gradients.

        Args:
            pictures: the pictures that `inputs` was made from.
            inputs: the prepared prompt.
            trajectory: the recorded run, or the given answer.
            targets: words of the answer, from `dcam_core.probing.targets.select_targets`.
            baselines: as in `explain`; at least one.
            grounded_above: as in `explain`.
            progress: called after every replay.

        Raises:
            ConfigurationError: there is no such baseline, or none is named.
        """
        named = default_baselines(self.model.folder) if baselines is None else baselines
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            return measure_reliance(
                self.model,
                inputs,
                trajectory,
                targets,
                stand_ins(pictures, named),
                self._prepare,
                threshold=grounded_above,
                states_per_forward=self._states_per_forward,
                on_replay=None if progress is None else partial(progress, "measuring"),
            )

    def explain_run(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        answer: Answer,
        targets: Sequence[Target],
        *,
        pictures: Sequence[Image.Image] = (),
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
            pictures: the pictures of the prompt, RGB, for attributions that cover parts of them and refiners that
                look at them.
            progress: called after every batch of replayed states.

        Raises:
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        method = self._method_for(trajectory)
        with torch.inference_mode(False), untouched(self.model.model):
            readings = plan_readings(self._hooks, method, self.model, targets, trajectory)
            raw, scores, log_probabilities = self._probe(
                inputs, trajectory, readings, targets, pictures, progress
            )
            with torch.no_grad():
                maps = refine(raw, self._refiners, trajectory, answer, self.model.image_size, pictures)
        made = tuple(RunMaps(*(part.cpu() for part in pair)) for pair in zip(raw, maps, strict=True))
        for number, part in enumerate(made):
            self._hooks.observe(
                "dcam_maps_made", targets=targets, raw=part.raw, maps=part.maps, picture=number
            )
        explained = explained_targets(
            targets,
            trajectory,
            readings,
            [part.raw for part in made],
            scores,
            log_probabilities,
            policy=str(method.mask_step),
            layer=", ".join(self.layers),
        )
        decisions = [self._layer_decision]
        decisions += [decision for item in readings for decision in (item.states_from, item.score_from)]
        return ExplainedRun(explained, made, decided_by(decisions))

    def _prepare(self, pictures: Sequence[Image.Image], prompt: str) -> Inputs:
        """The prompt with its pictures, all of which must be found in it again."""
        inputs = self.model.prepare(pictures[0] if len(pictures) == 1 else pictures, prompt)
        if len(inputs.picture_sizes) != len(pictures):
            raise PluginError(
                self.model.family,
                f"adapter {self.model.family!r} found {len(inputs.picture_sizes)} of the {len(pictures)} pictures "
                "in its prompt: it does not read several; ask about each picture on its own",
            )
        return inputs

    def _method_for(self, trajectory: Trajectory) -> Method:
        """The method, or how it is done where there is no step that could be replayed: by infilling.

        A mask step that the user chose stands: what needs a step then says that there is none.
        """
        if trajectory.steps or self._mask_step_chosen:
            return self.method
        return dataclasses.replace(self.method, mask_step="infill")

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
        targets: Sequence[Target],
        pictures: Sequence[Image.Image],
        progress: Progress | None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Raw maps [T, H, W] of every picture, and score and log-probability of every reading."""
        device = inputs.embeddings.device
        grids = picture_grids(inputs, self.method.views)
        raw = [torch.zeros(len(targets), grid.rows, grid.cols, device=device) for grid in grids]
        scores, log_probabilities = torch.zeros(len(readings)), torch.zeros(len(readings))
        done = 0
        replays = Replays(
            self.model,
            inputs,
            trajectory,
            [item.reading for item in readings],
            grids,
            self.layers,
            pictures,
            states_per_forward=self._states_per_forward,
            targets_per_backward=self._targets_per_backward,
        )
        label, attribution = self._attribution
        for found in attribute(attribution, label, replays):
            with torch.no_grad():
                order = list(found.readings)
                refuse_infinite(
                    [readings[i].score_from for i in order],
                    [targets[readings[i].target].word for i in order],
                    found.scores,
                    found.log_probabilities,
                )
                weights = torch.tensor([readings[i].weight for i in order], device=device)
                owners = torch.tensor([readings[i].target for i in order], device=device)
                evidence = torch.split(
                    found.values.to(device), [len(grid.positions) for grid in grids], dim=1
                )
                for grid, own, part in zip(grids, raw, evidence, strict=True):
                    own.index_add_(0, owners, grid.lay(part) * weights[:, None, None])
            scores[order] = found.scores.cpu()
            log_probabilities[order] = found.log_probabilities.cpu()
            done += len(order)
            if progress is not None:
                progress("explaining", done, len(readings))
        return raw, scores, log_probabilities

    def _settings(self, trajectory: Trajectory, decided_by: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The merged configuration, with what was left open filled in, as plain data."""
        settings = {
            **self._method_for(trajectory).as_dict(),
            "probe_layer": self.layer,
            "sampler": trajectory.settings.as_dict(),
        }
        if decided_by:
            settings["decided_by"] = {setting: list(origins) for setting, origins in decided_by.items()}
        return self._choices.recorded_in(settings)

    # -- putting the engine together -------------------------------------------------------------------------

    def _resolve(self, method: str | Path, overrides: Sequence[str] | Mapping[str, Any]) -> Method:
        """The preset or file, with the checkpoint's measured defaults and the overrides."""
        text = str(method)
        is_file = isinstance(method, Path) or text.endswith((".yaml", ".yml"))
        path = Path(text) if is_file else Path(self.manager.registries.methods.get(text))
        name = path.stem if is_file else text
        return resolve_method(name, path, checkpoint=self.model.folder, overrides=overrides)


def _named(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A `{name: ..., parameters...}` mapping taken apart."""
    return str(settings["name"]), {key: value for key, value in settings.items() if key != "name"}


def _build(
    registry: Registry[type[M]], where: str, name: str, parameters: Mapping[str, Any]
) -> tuple[str, M]:
    """Make an attribution or refiner with the method's parameters; with its label for messages."""
    entry = registry.entry(name)
    kind = entry.load()
    try:
        return entry.label, kind(**parameters)
    except DcamError:
        raise
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: {name!r} cannot be made with {dict(parameters)}: {error}"
        ) from error
    except Exception as error:
        raise PluginError(
            entry.plugin, f"{entry.label} cannot be made with {dict(parameters)}: {describe(error)}"
        ) from error
