"""The engine: a picture and a prompt in, an explanation out. It owns the order of the work, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

import dcam_core
from dcam_core.adapter import Adapter
from dcam_core.defaults import CORE_DEFAULTS
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.errors import ConfigurationError, PluginError, StructuralValidityError
from dcam_core.explanation import ExplainedTarget, Explanation, Word
from dcam_core.gradient_targets import GradientTarget
from dcam_core.mask_steps import MASK_STEPS, ProbeState
from dcam_core.method import Method, resolve_method
from dcam_core.models import load_model
from dcam_core.normalise import min_max
from dcam_core.picture import read_picture
from dcam_core.picture_grid import PictureGrid, select_views
from dcam_core.plugins import default_manager
from dcam_core.probe import Probed, Reading, probe
from dcam_core.refiner import Refiner, RefinerContext
from dcam_core.targets import Answer, Target, decode, read_answer, select_targets
from dcam_core.trajectory import Trajectory
from dcam_core.untouched import untouched

if TYPE_CHECKING:
    from torch import nn

    from dcam_core.attribution import Attribution
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager
    from dcam_core.registry import Registry

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
class _Reading:
    """A reading with the target it belongs to and its weight in that target's map."""

    target: int
    weight: float
    step: int | None
    reading: Reading


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
        with torch.inference_mode(False), untouched(self.model.model):
            with torch.no_grad():
                inputs = self.model.prepare(picture, prompt)
                trajectory = self.model.denoise(inputs, settings, self._on_step(progress))
            answer = read_answer(trajectory.answer_ids, self.model.tokenizer)
            chosen = select_targets(answer, targets)
            run = self.explain_run(inputs, trajectory, answer, chosen, progress=progress)

        explanation = Explanation(
            picture=picture,
            prompt=prompt,
            answer=answer.text,
            words=_words(answer, trajectory),
            targets=run.targets,
            raw=run.raw,
            maps=run.maps,
            settings=self._settings(trajectory),
            seed=seed,
            model=self._identity(),
            versions={
                "dcam": dcam_core.__version__,
                "torch": str(torch.__version__),
                "plugins": self.manager.versions(),
            },
            steps=self._texts(trajectory),
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
            answer: its answer, from `dcam_core.targets.read_answer`.
            targets: words of it, from `dcam_core.targets.select_targets`.
            progress: called after every batch of replayed states.

        Raises:
            StructuralValidityError: the method asks for a step or module that cannot be probed.
        """
        with torch.inference_mode(False), untouched(self.model.model):
            readings = self._readings(targets, trajectory)
            raw, scores, log_probabilities = self._probe(inputs, trajectory, readings, len(targets), progress)
            with torch.no_grad():
                maps = self._refine(raw, trajectory, answer)
        raw, maps = raw.cpu(), maps.cpu()
        self._hooks.observe("dcam_maps_made", targets=targets, raw=raw, maps=maps)
        explained = tuple(
            self._explained(index, target, trajectory, readings, raw[index], scores, log_probabilities)
            for index, target in enumerate(targets)
        )
        return ExplainedRun(explained, raw, maps)

    def _on_step(self, progress: Progress | None) -> Any:
        def on_step(step: DenoisingStep) -> None:
            self._hooks.observe("dcam_denoising_step", step=step, adapter=self.model)
            if progress is not None:
                progress("denoising", step.index + 1, step.total)

        return on_step

    def _readings(self, targets: Sequence[Target], trajectory: Trajectory) -> list[_Reading]:
        """Ask the deciding hooks for every target: which states to replay, and what to differentiate."""
        gradient_name, gradient_parameters = _named(self.method.gradient_target)
        readings = []
        for index, target in enumerate(targets):
            states: Sequence[ProbeState] | None = self._hooks.decide(
                "dcam_mask_step",
                policy=self.method.mask_step,
                target=target,
                trajectory=trajectory,
                adapter=self.model,
            )
            if states is None:
                policies = ", ".join(policy.policy for policy in MASK_STEPS)
                raise ConfigurationError(
                    f"mask_step {self.method.mask_step!r} is not a policy that any plugin knows: "
                    f"dcam itself has {policies}"
                )
            objective: GradientTarget | None = self._hooks.decide(
                "dcam_gradient_target",
                name=gradient_name,
                parameters=gradient_parameters,
                target=target,
                adapter=self.model,
            )
            if objective is None:
                raise ConfigurationError(
                    f"gradient_target {gradient_name!r} is not known to any plugin: dcam itself has "
                    "logit, log-probability, contrast, vocabulary-contrast"
                )
            self._check(states, target, objective, trajectory)
            read = sum(len(state.positions) for state in states)
            tokens = dict(zip(target.positions, target.token_ids, strict=True))
            for state in states:
                ids = tuple(tokens[position] for position in state.positions)
                readings.append(
                    _Reading(
                        target=index,
                        weight=len(state.positions) / read,
                        step=state.step,
                        reading=Reading(state.ids, tuple(state.positions), ids, objective),
                    )
                )
        return readings

    def _check(
        self,
        states: Sequence[ProbeState],
        target: Target,
        objective: GradientTarget,
        trajectory: Trajectory,
    ) -> None:
        """What a plugin answered must fit the run: it is refused here, by name, not deep in a forward pass."""
        policy, length = self.method.mask_step, len(trajectory.final)
        if not states:
            raise PluginError(policy, f"mask_step {policy!r} gave no state to replay for {target.word!r}")
        for state in states:
            if state.ids.shape != trajectory.final.shape or not set(state.positions) <= set(target.positions):
                raise PluginError(
                    policy,
                    f"mask_step {policy!r} gave a state of shape {list(state.ids.shape)} reading positions "
                    f"{state.positions} for {target.word!r}: it must be [{length}] and read positions out of "
                    f"{target.positions}",
                )
            if state.step is not None and (reason := self.model.invalid_reason(trajectory, state.step)):
                raise StructuralValidityError(
                    f"denoising step {state.step} cannot be probed: {reason}; choose another mask_step"
                )
        if any(not 0 <= position < length for position in objective.context):
            raise ConfigurationError(
                f"gradient_target reads answer positions {objective.context}: the answer region has positions "
                f"0 to {length - 1}"
            )

    def _probe(
        self,
        inputs: Inputs,
        trajectory: Trajectory,
        readings: Sequence[_Reading],
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
            raise PluginError(name, f"attribution {name!r} gave {list(values.shape)}, expected {list(expected)}")
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

    # -- what is written down --------------------------------------------------------------------------------

    def _explained(
        self,
        index: int,
        target: Target,
        trajectory: Trajectory,
        readings: Sequence[_Reading],
        raw: Tensor,
        scores: Tensor,
        log_probabilities: Tensor,
    ) -> ExplainedTarget:
        """The record of one target."""
        own = [i for i, item in enumerate(readings) if item.target == index]
        weights = torch.tensor([readings[i].weight for i in own])
        notes = []
        if raw.max() == raw.min():
            notes.append(
                f"the map is {'zero' if raw.max() == 0 else 'the same'} everywhere: at {self.layer} nothing in "
                "the picture spoke for this word more than anything else"
            )
        # Tokens read in several states count by their mean: "all" reads every token at every step.
        reads_per_token = sum(len(readings[i].reading.positions) for i in own) / len(target.positions)
        return ExplainedTarget(
            word=target.word,
            positions=target.positions,
            token_ids=target.token_ids,
            tokens=target.tokens,
            commit_steps=tuple(int(trajectory.commit_steps[p]) for p in target.positions),
            probed_steps=tuple(readings[i].step for i in own),
            state=str(self.method.mask_step),
            probability=float((log_probabilities[own].sum() / reads_per_token).exp().clamp(0, 1)),
            score=float((scores[own] * weights).sum()),
            notes=tuple(notes),
        )

    def _settings(self, trajectory: Trajectory) -> dict[str, Any]:
        """The merged configuration, with what was left open filled in."""
        sampler = {name: getattr(trajectory.settings, name) for name in trajectory.settings.__dataclass_fields__}
        return {**self.method.as_dict(), "probe_layer": self.layer, "sampler": sampler}

    def _identity(self) -> dict[str, Any]:
        """Which model answered."""
        return {
            "name": self.model.name,
            "family": self.model.family,
            "source": None if self.model.folder is None else str(self.model.folder),
            "class": type(self.model.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
        }

    def _texts(self, trajectory: Trajectory) -> tuple[str, ...]:
        """The answer region as text after every step."""
        tokenizer = self.model.tokenizer
        states = trajectory.states[1:, : trajectory.answer_length]
        if tokenizer is None:
            return tuple(" ".join(map(str, ids)) for ids in states.tolist())
        mask = self.model.mask_token_id
        blank = "▁"  # one glyph per undecided token reads better than the mask token's own name
        return tuple(
            " ".join(
                blank if token == mask else decode(tokenizer, [token]).strip() for token in ids
            )
            for ids in states.tolist()
        )

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
        raise ConfigurationError(f"{where}: {name!r} cannot be made with {dict(parameters)}: {error}") from error


def _words(answer: Answer, trajectory: Trajectory) -> tuple[Word, ...]:
    """The answer's words, with the step that completed each."""
    words = []
    for word in answer.words:
        step = max(int(trajectory.commit_steps[position]) for position in word.positions)
        words.append(Word(word.text, word.start, word.stop, word.positions, step if step >= 0 else None))
    return tuple(words)
