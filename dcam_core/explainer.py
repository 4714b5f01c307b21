"""The engine: a picture and a prompt in, an explanation out. It owns the order of the work, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from PIL import Image

import dcam_core
from dcam_core.adapter import Adapter, Layer
from dcam_core.bound_method import BoundMethod
from dcam_core.denoising.given import given_trajectory
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.errors import PluginError
from dcam_core.estimating.chunks import STATES_PER_FORWARD
from dcam_core.estimating.running import Plan, estimate_run
from dcam_core.method import DEFAULT_METHOD, Method
from dcam_core.models import load_model
from dcam_core.picture import read_pictures
from dcam_core.plugins import default_manager
from dcam_core.probing.asked import ask
from dcam_core.probing.baseline_pictures import Baseline, default_baselines, stand_ins
from dcam_core.probing.differentiable import DifferentiableMaps, differentiating
from dcam_core.probing.over_time import (
    choose_steps,
    decided_at,
    plan_over_time,
    probabilities_over_time,
    refine_over_time,
)
from dcam_core.probing.raw_maps import make_raw_maps
from dcam_core.probing.refining import refine
from dcam_core.probing.reliance import GROUNDED_ABOVE, measure_reliance
from dcam_core.probing.untouched import untouched
from dcam_core.progress import Progress
from dcam_core.replaying import Replaying
from dcam_core.results.explanation import Explanation
from dcam_core.results.over_time import MovingMaps, OverTime
from dcam_core.results.picture_maps import PictureMaps
from dcam_core.results.record import answer_words, explained_targets, model_identity, step_texts
from dcam_core.results.run import ExplainedRun, ProbedRun, RunMaps

if TYPE_CHECKING:
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.estimating.estimate import MemoryEstimate
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager
    from dcam_core.probing.asked import Asked
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.probing.targets import Answer, Target
    from dcam_core.results.reliance import VisualReliance

__all__ = ["ExplainedRun", "Explainer", "Progress"]

T = TypeVar("T")


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
        states_per_forward: how many replayed states share a forward pass; bounds peak memory. "auto": as many as the
            free memory of the device will hold, by an estimate. Where memory runs out, it is halved.
        targets_per_backward: how many targets of one state share a vectorised backward pass; 1 needs the
            least memory.
        checkpointing: blocks above the probed module keep their inputs alone for the backward pass, and are computed
            anew in it: less memory, more time, the same maps.
        offload: the graph above the probed module lies in the CPU's memory from the forward pass to the backward
            passes: less memory of the device, more time, the same maps. Nothing changes for a model on the CPU.

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
        method: str | Path = DEFAULT_METHOD,
        *,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        plugins: Iterable[object] = (),
        probe_layer: Layer | Sequence[Layer] | Callable[..., Layer | Sequence[Layer] | None] | None = None,
        mask_step: str | int | Callable[..., Sequence[ProbeState] | None] | None = None,
        gradient_target: str | Mapping[str, Any] | Callable[..., GradientTarget | None] | None = None,
        manager: PluginManager | None = None,
        states_per_forward: int | Literal["auto"] = STATES_PER_FORWARD,
        targets_per_backward: int = 1,
        checkpointing: bool = False,
        offload: bool = False,
    ) -> None:
        self.manager = manager or default_manager()
        self.model = model if isinstance(model, Adapter) else load_model(model, manager=self.manager)
        self._bound = BoundMethod(
            self.model,
            method,
            self.manager,
            overrides=overrides,
            plugins=plugins,
            probe_layer=probe_layer,
            mask_step=mask_step,
            gradient_target=gradient_target,
        )
        self._replaying = Replaying(
            self._bound, states_per_forward, targets_per_backward, checkpointing, offload
        )

    @property
    def method(self) -> Method:
        """The merged settings."""
        return self._bound.method

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the probed modules."""
        return self._bound.layers

    @property
    def layer(self) -> str | list[str]:
        """The probed module's path as a method would name it; a list of several."""
        return self._bound.layer

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
        over_time: bool | int = False,
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
            over_time: whether the targets are also explained over the denoising: True: at every step; a number: at so
                many, evenly spread (see `over_time`).
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
            StructuralValidityError: the method asks for a step or module that cannot be probed, or nothing can be
                shown over time.
        """
        pictures = read_pictures(image)
        inputs, asked = self._ask(pictures, prompt, targets, answer, why_not, seed, progress)
        reliance = None
        if baselines is None or len(baselines):
            reliance = self.visual_reliance(
                pictures,
                inputs,
                asked.trajectory,
                asked.words,
                baselines=baselines,
                grounded_above=grounded_above,
                progress=progress,
            )
            if targets is None:
                every, asked = asked, asked.grounded_in(reliance)
                if not asked.targets:
                    # A setting that is wrong must be told even where it would not have been used.
                    self._bound.readings(every.targets, every.trajectory)
        run = self.explain_run(
            inputs, asked.trajectory, asked.answer, asked.targets, pictures=pictures, progress=progress
        )
        moving = None
        if over_time and asked.targets:
            moving = self.over_time(
                inputs,
                asked.trajectory,
                asked.answer,
                asked.targets,
                steps=None if over_time is True else over_time,
                pictures=pictures,
                progress=progress,
            )

        explanation = Explanation(
            pictures=tuple(
                PictureMaps(picture, *part) for picture, part in zip(pictures, run.pictures, strict=True)
            ),
            prompt=prompt,
            answer=asked.answer.text,
            words=answer_words(asked.answer, asked.trajectory),
            targets=run.targets,
            settings={**self._bound.recorded(asked.trajectory, run.decided_by), **asked.recorded},
            seed=seed,
            model=model_identity(self.model),
            versions={
                "dcam": dcam_core.__version__,
                "torch": str(torch.__version__),
                "plugins": self.manager.versions(),
            },
            steps=step_texts(self.model, asked.trajectory),
            reliance=reliance,
            over_time=moving,
        )
        self._bound.hooks.observe("dcam_explained", explanation=explanation)
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
                states_per_forward=self._replaying.chunk,
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
        ways or to measure. It is `probe_run`, and then `refine_run`.

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
        probed = self.probe_run(inputs, trajectory, targets, pictures=pictures, progress=progress)
        return self.refine_run(probed, trajectory, answer, targets, pictures=pictures)

    def probe_run(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        targets: Sequence[Target],
        *,
        pictures: Sequence[Image.Image] = (),
        progress: Progress | None = None,
    ) -> ProbedRun:
        """The raw maps of `explain_run`, with the same arguments; nothing is refined."""
        (probed,) = self.probe_run_for(
            [self], inputs, trajectory, targets, pictures=pictures, progress=progress
        )
        return probed

    def probe_run_for(
        self,
        explainers: Sequence[Explainer],
        inputs: Inputs,
        trajectory: Trajectory,
        targets: Sequence[Target],
        *,
        pictures: Sequence[Image.Image] = (),
        progress: Progress | None = None,
    ) -> list[ProbedRun]:
        """The raw maps of several explainers that read the same, as this one does: the run is replayed once for all.

        Args:
            explainers: explainers whose `replay_settings` are those of this one.
            inputs: as in `explain_run`, like the other arguments.
            trajectory: the recorded run.
            targets: words of its answer.
            pictures: the pictures of the prompt.
            progress: called after every batch of replayed states.

        Returns:
            For each explainer what its `probe_run` gives, bit for bit.

        Raises:
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        with torch.inference_mode(False), untouched(self.model.model):
            readings = self._bound.readings(targets, trajectory)
            replays = self._replaying.of(inputs, trajectory, readings, pictures)
            on_readings = None if progress is None else partial(progress, "explaining")
            made = make_raw_maps(
                [each._bound.attribution for each in explainers], replays, readings, targets, on_readings
            )
        decided_by = self._bound.decided_by(readings)
        return [
            ProbedRun(
                explained_targets(
                    targets,
                    trajectory,
                    readings,
                    [part.cpu() for part in raw.maps],
                    raw.scores,
                    raw.log_probabilities,
                    policy=str(self._bound.for_run(trajectory).mask_step),
                    layer=", ".join(self.layers),
                ),
                tuple(raw.maps),
                decided_by,
                raw.seconds,
            )
            for raw in made
        ]

    def refine_run(
        self,
        probed: ProbedRun,
        trajectory: Trajectory,
        answer: Answer,
        targets: Sequence[Target],
        *,
        pictures: Sequence[Image.Image] = (),
    ) -> ExplainedRun:
        """What this method's refiners make of raw maps; they may be those of another explainer of the same model.

        Args:
            probed: from `probe_run`.
            trajectory: its run; `answer`, `targets` and `pictures` are as in `explain_run`.
            answer: the run's answer.
            targets: the words whose raw maps they are.
            pictures: the pictures of the prompt.

        Raises:
            PluginError: a refiner failed.
        """
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            maps = refine(
                probed.raw, self._bound.refiners, trajectory, answer, self.model.image_size, pictures
            )
        made = tuple(RunMaps(*(part.cpu() for part in pair)) for pair in zip(probed.raw, maps, strict=True))
        for number, part in enumerate(made):
            self._bound.hooks.observe(
                "dcam_maps_made", targets=targets, raw=part.raw, maps=part.maps, picture=number
            )
        return ExplainedRun(probed.targets, made, probed.decided_by)

    def over_time(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        answer: Answer,
        targets: Sequence[Target],
        *,
        steps: int | None = None,
        pictures: Sequence[Image.Image] = (),
        progress: Progress | None = None,
    ) -> OverTime:
        """How the maps and probabilities of words move over the denoising.

        At a step, a word is asked about in the state that the step read. After the step that decided it, it is hidden
        again, alone: what is shown is always how far the model expects the word from the picture and from what stood
        of the answer by then. The method's mask step is not looked at; attribution, layer, gradient target and
        refiners are the method's, and the maps of a word have one scale over all steps.

        Args:
            inputs: the prepared prompt.
            trajectory: the recorded run.
            answer: its answer, from `dcam_core.probing.targets.read_answer`.
            targets: words of it, from `dcam_core.probing.targets.select_targets`.
            steps: at most so many, evenly spread, and those that decided the targets; None: every step that can be
                probed. The finished answer is always the last.
            pictures: as in `explain_run`.
            progress: called after every batch of replayed states.

        Raises:
            ConfigurationError: `steps` is less than 2.
            StructuralValidityError: the answer was given and not denoised, or no step can be probed.
        """
        with torch.inference_mode(False), untouched(self.model.model):
            shown = choose_steps(self.model, trajectory, targets, steps)
            readings = plan_over_time(self._bound.hooks, self.method, self.model, targets, trajectory, shown)
            replays = self._replaying.of(inputs, trajectory, readings, pictures)
            on_readings = None if progress is None else partial(progress, "over time")
            every = [*targets] * len(shown)
            (raw,) = make_raw_maps([self._bound.attribution], replays, readings, every, on_readings)
            with torch.no_grad():
                maps = refine_over_time(
                    raw.maps,
                    len(shown),
                    self._bound.refiners,
                    trajectory,
                    answer,
                    self.model.image_size,
                    pictures,
                )
        return OverTime(
            steps=shown,
            taken=trajectory.steps,
            texts=step_texts(self.model, trajectory, shown),
            probabilities=probabilities_over_time(readings, raw.log_probabilities, len(shown), len(targets)),
            commit_steps=tuple(decided_at(trajectory, target) for target in targets),
            pictures=tuple(
                MovingMaps(own.view(len(shown), -1, *own.shape[1:]).cpu(), part.cpu())
                for own, part in zip(raw.maps, maps, strict=True)
            ),
        )

    def raw_settings(self, trajectory: Trajectory) -> dict[str, Any]:
        """What the raw maps of a run depend on, as plain data.

        Explainers of one model that were given neither functions nor plugins of their own make the same raw maps
        where these are the same.

        Args:
            trajectory: the recorded run.
        """
        return self._bound.raw_settings(trajectory)

    def replay_settings(self, trajectory: Trajectory) -> dict[str, Any] | None:
        """What the replays of a run depend on that feed the attribution, as plain data.

        Explainers as in `raw_settings` are fed the same where these are the same: see `probe_run_for`.

        Args:
            trajectory: the recorded run.

        Returns:
            None where the attribution asks the model itself, and nobody else can be fed by what it does.
        """
        return self._bound.replay_settings(trajectory)

    def differentiable(
        self,
        image: Image.Image | str | Path | Sequence[Image.Image | str | Path],
        prompt: str,
        targets: Iterable[str | int] | None = None,
        *,
        answer: str | None = None,
        seed: int = 0,
    ) -> DifferentiableMaps:
        """Raw maps that can be differentiated: for a loss on where a word looks.

        The same numbers as the raw maps of `explain`, up to rounding, with a graph to every parameter of the language
        model that is trainable now; see `dcam_core.probing.differentiable`. No refiner is asked. Modes, gradients and
        random numbers of a training run stay as they are.

        Args:
            image: as in `explain`.
            prompt: as in `explain`.
            targets: as in `explain`; None: all words of the answer.
            answer: as in `explain`; in training, the caption that is taught.
            seed: as in `explain`.

        Raises:
            ConfigurationError: no parameter is trainable, or the method's attribution asks the model itself: then
                there is no gradient.
            TargetError: a target is not in the answer.
            UsageError: the answer that was given cannot be read by the model.
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        pictures = read_pictures(image)
        inputs, asked = self._ask(pictures, prompt, targets, answer, None, seed, None)
        with differentiating(self.model.model, *self._bound.attribution):
            readings = self._bound.readings(asked.targets, asked.trajectory)
            replays = self._replaying.of(inputs, asked.trajectory, readings, pictures)
            replays = dataclasses.replace(replays, with_graph=True)
            (raw,) = make_raw_maps([self._bound.attribution], replays, readings, asked.targets)
        return DifferentiableMaps(asked.answer.text, asked.targets, tuple(raw.maps))

    def estimate_memory(
        self,
        image_size: tuple[int, int],
        targets: int = 1,
        *,
        prompt: str = "describe the picture",
        quantisation: str | None = None,
    ) -> MemoryEstimate:
        """How much memory an explanation will take; nothing is computed. The model may be an outline without weights.

        Args:
            image_size: (width, height) of the picture in pixels.
            targets: how many words are explained.
            prompt: what is asked; only its length matters.
            quantisation: how the blocks of an outline will be quantised; None: they will not.

        Raises:
            UsageError: the picture has no pixels, or the answer region is shorter than so many targets.
            ConfigurationError: the run cannot be followed without numbers.
        """
        plan = Plan(
            self.model,
            self.method.name,
            self._bound.sampler,
            self._bound.attribution,
            self._bound.refiners,
            self._prepare,
            self._bound.readings,
            self._replaying.as_asked,
        )
        return estimate_run(plan, image_size, targets, prompt, quantisation)

    def _ask(
        self,
        pictures: Sequence[Image.Image],
        prompt: str,
        targets: Iterable[str | int] | None,
        answer: str | None,
        why_not: str | None,
        seed: int,
        progress: Progress | None,
    ) -> tuple[Inputs, Asked]:
        """The prompt, and what is asked of its answer, which is denoised if it is not given."""
        settings = self._bound.sampler.merged({"seed": seed})
        given = answer is not None
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model.model):
            inputs = self._prepare(pictures, prompt)
            if answer is None:
                trajectory = self.model.denoise(inputs, settings, self._on_step(progress))
            else:
                trajectory = given_trajectory(self.model, answer, settings)
            asked = ask(self.model, trajectory, targets, settings, given=given, why_not=why_not)
        return inputs, asked

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

    def _on_step(self, progress: Progress | None) -> Any:
        def on_step(step: DenoisingStep) -> None:
            self._bound.hooks.observe("dcam_denoising_step", step=step, adapter=self.model)
            if progress is not None:
                progress("denoising", step.index + 1, step.total)

        return on_step
