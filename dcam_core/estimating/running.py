"""A run without numbers: every stage of an explanation on fake tensors, and what each takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from dcam_core.adapter import Adapter
from dcam_core.attribution import Attribution, ModelAttribution
from dcam_core.denoising.decision import Decider
from dcam_core.denoising.sampler import decide
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import ConfigurationError, DcamError, UsageError
from dcam_core.estimating.counting import PeakTensorMemory
from dcam_core.estimating.estimate import MemoryEstimate, Phase
from dcam_core.estimating.fakes import elsewhere, fake_weights
from dcam_core.estimating.probing import FirstStates, GraphSize
from dcam_core.estimating.weights import unpacked_bytes, weight_bytes
from dcam_core.estimating.workspace import PeakMemory
from dcam_core.inputs import Inputs
from dcam_core.probing.attributing import LabelledAttribution
from dcam_core.probing.readings import TargetReading
from dcam_core.probing.refining import refine
from dcam_core.probing.reliance import hidden_log_probabilities
from dcam_core.probing.replays import Replays
from dcam_core.probing.targets import Answer, Target, read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_core.refiner import Refiner

__all__ = ["ENOUGH_PASSES", "Plan", "estimate_run"]

ENOUGH_PASSES = 8
"""Forward passes for which an attribution that asks the model itself is followed: the rest is more of the same."""


@dataclass(frozen=True)
class Plan:
    """What an explainer would do.

    Attributes:
        adapter: the model, in memory or on the meta device.
        method: name of the method.
        settings: of the sampler.
        attribution: with its label.
        refiners: with their labels.
        prepare: makes a prompt of pictures and words.
        readings: what must be read to explain words of a run.
        replays: the run as an attribution gets it.
    """

    adapter: Adapter
    method: str
    settings: SamplerSettings
    attribution: LabelledAttribution
    refiners: Sequence[tuple[str, Refiner]]
    prepare: Callable[[Sequence[Image.Image], str], Inputs]
    readings: Callable[[Sequence[Target], Trajectory], list[TargetReading]]
    replays: Callable[
        [Inputs, Trajectory, Sequence[TargetReading], Sequence[Image.Image]],
        Replays,
    ]


def estimate_run(
    plan: Plan, image_size: tuple[int, int], targets: int, prompt: str, quantisation: str | None = None
) -> MemoryEstimate:
    """Do what an explainer would do, on fake tensors, and count.

    The answer is as long as the sampler allows and decided token by token from left to right; the targets are its
    first tokens.

    Args:
        plan: what the explainer would do.
        image_size: (width, height) of the picture in pixels.
        targets: how many words are explained.
        prompt: what is asked.
        quantisation: how the blocks of an outline will be quantised; see `dcam_core.placement.QUANTISATIONS`.

    Raises:
        UsageError: the picture has no pixels, or the answer region is shorter than so many targets.
        ConfigurationError: the adapter's code looks at numbers, and a run without them cannot be followed.
    """
    adapter, length = plan.adapter, plan.settings.answer_length
    if min(image_size) < 1:
        raise UsageError(f"a picture of {image_size[0]} x {image_size[1]} has no pixels: give at least 1 x 1")
    if not 1 <= targets <= length:
        raise UsageError(
            f"{targets} targets are asked for, but an answer has 1 to {length} tokens (sampler.answer_length): "
            "give a number in between"
        )
    picture = Image.new("RGB", image_size, (127, 127, 127))
    trajectory, answer = _blank_run(adapter, plan.settings)
    words = select_targets(answer, range(targets))
    weights = weight_bytes(adapter, quantisation)
    dtype, device = str(adapter.dtype).removeprefix("torch."), adapter.device
    with (
        fake_weights(adapter),
        torch.inference_mode(False),
        untouched(adapter.model),
        PeakMemory() as memory,
    ):
        stages = _Stages(adapter, memory, unpacked_bytes(adapter, quantisation))
        with torch.no_grad(), stages.stage("reading the picture"):
            inputs = plan.prepare([picture], prompt)
        with torch.no_grad(), stages.stage("denoising"):
            _decide_once(adapter, inputs, plan.settings, trajectory)
        readings = plan.readings(words, trajectory)
        replays = plan.replays(inputs, trajectory, readings, [picture])
        replays = dataclasses.replace(replays, offload=elsewhere(replays.offload, device))
        with torch.no_grad(), stages.stage("measuring reliance"):
            every = select_targets(answer, range(min(length, replays.states_per_forward)))
            shown = plan.prepare([picture], prompt)
            hidden_log_probabilities(
                adapter,
                shown,
                trajectory.final,
                every,
                plan.settings,
                states_per_forward=replays.states_per_forward,
            )
            del shown
        explained = _Explained(memory, replays)
        with stages.stage("explaining"):
            left_out = explained.by(*plan.attribution)
        with stages.unlisted("explaining"):
            per_state = explained.per_state()
        offloaded = memory.peak_elsewhere
    with torch.no_grad(), PeakMemory() as memory:
        # Maps are small and hang on no weight: refiners may look at numbers, and get some.
        raw = [torch.rand(targets, grid.rows, grid.cols) for grid in replays.grids]
        refine(raw, plan.refiners, trajectory, answer, adapter.image_size, [picture])
    return MemoryEstimate(
        model=adapter.name,
        method=plan.method,
        dtype=dtype,
        quantisation=quantisation,
        image_size=image_size,
        prompt_length=inputs.prompt_length,
        image_tokens=len(replays.positions),
        answer_length=length,
        layers=tuple(replays.layers),
        targets=targets,
        states=explained.first.count,
        states_per_forward=replays.states_per_forward,
        targets_per_backward=replays.targets_per_backward,
        checkpointing=replays.checkpointing,
        weights=weights,
        phases=(*stages.phases, Phase("refining", memory.peak)),
        graph=explained.graph,
        gradients=explained.gradients,
        offloaded=offloaded,
        per_state=per_state,
        left_out=tuple(left_out),
    )


class _Stages:
    """The stages of a run, one after the other."""

    def __init__(self, adapter: Adapter, memory: PeakTensorMemory, unpacked: int) -> None:
        self._adapter, self._memory, self._unpacked = adapter, memory, unpacked
        self.phases: list[Phase] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what the body takes."""
        self._memory.restart()
        with self.unlisted(name):
            yield
        # A quantised layer's weight is unpacked while the layer computes.
        unpacked = self._unpacked if self.phases else 0
        self.phases.append(Phase(name, self._memory.peak + unpacked))

    @contextmanager
    def unlisted(self, name: str) -> Iterator[None]:
        """Says what is wrong where the body cannot be done without numbers."""
        try:
            yield
        except DcamError:
            raise
        except (
            Exception
        ) as error:  # foreign code answers tensors without numbers with whatever it stumbles over
            raise ConfigurationError(
                f"the memory of {self._adapter.name} cannot be estimated: while {name}, the adapter "
                f"{self._adapter.family!r}, or the model within it, failed on tensors without numbers "
                f"({_first_line(error)}); measure a small run instead"
            ) from error


class _Explained:
    """What replays take, and what the attribution takes that is fed by them.

    Attributes:
        first: the states that are replayed.
        graph: highest number of bytes alive when a forward pass had ended.
        gradients: highest number of bytes that backward passes took beyond that.
    """

    def __init__(self, memory: PeakTensorMemory, replays: Replays) -> None:
        self._memory = memory
        self._size = GraphSize(memory)
        noted = [self._size.noted_by(reading) for reading in replays.readings]
        self.first = FirstStates(dataclasses.replace(replays, readings=noted))
        self._together = min(self.first.count, replays.states_per_forward)
        self.graph = self.gradients = 0

    def by(self, label: str, attribution: Attribution | ModelAttribution) -> list[str]:
        """Follow an attribution over two forward passes of the probe, or through its own first ones.

        Returns:
            What could not be followed.
        """
        # The results of a batch are still there while the next one is computed: two show what many take.
        replays = self.first.of(2 * self._together, self._together)
        if isinstance(attribution, ModelAttribution):
            return self._asked(label, attribution, replays)
        left_out: list[str] = []
        for batch in replays.probed():
            self._note()
            for probed in batch:
                try:
                    with torch.no_grad():
                        attribution(probed.activations, probed.gradients)
                except Exception as error:  # noqa: BLE001 - as above; the larger part is known without it
                    left_out = [f"what {label} takes ({_first_line(error)})"]
        return left_out

    def per_state(self) -> int:
        """What each state beyond the first takes in a forward pass."""
        if self._together < 2:
            return 0
        many, one = (self.first.peak(self._memory, states) for states in (self._together, 1))
        return (many - one) // (self._together - 1)

    def _asked(self, label: str, attribution: ModelAttribution, replays: Replays) -> list[str]:
        """Follow an attribution that does its own work."""
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1
            if passes > ENOUGH_PASSES:
                raise _EnoughSeen

        left_out = []
        handle = replays.adapter.blocks[0].register_forward_pre_hook(count)
        try:
            with torch.no_grad():
                replays.log_probabilities()
                attribution(replays)
        except _EnoughSeen:
            left_out = [
                f"what {label} takes after {ENOUGH_PASSES} forward passes, if that is more than before"
            ]
        except DcamError:
            raise
        except Exception as error:  # noqa: BLE001 - as above; what was seen before counts
            left_out = [f"part of what {label} takes ({_first_line(error)})"]
        finally:
            handle.remove()
        self._note()
        return left_out

    def _note(self) -> None:
        """Take down the last forward pass and the backward passes behind it."""
        self.graph = max(self.graph, self._size.alive)
        self.gradients = max(self.gradients, self._memory.recent - self._size.alive)


class _EnoughSeen(BaseException):
    """Ends an attribution that is only watched; no handler of errors shall take it for one."""


def _blank_run(adapter: Adapter, settings: SamplerSettings) -> tuple[Trajectory, Answer]:
    """A run that decides the same token everywhere, from left to right."""
    length = settings.answer_length
    # Any but the mask's: a state is known by what it holds.
    ids = torch.full((length,), int(adapter.mask_token_id == 0))
    trajectory = Trajectory(
        states=torch.stack([adapter.hidden(ids, range(step, length)) for step in range(length + 1)]),
        commit_steps=torch.arange(length),
        commit_logits=torch.zeros(length),
        commit_probabilities=torch.ones(length),
        answer_length=length,
        settings=settings,
    )
    return trajectory, read_answer(trajectory.answer_ids, None)


def _decide_once(adapter: Adapter, inputs: Inputs, settings: SamplerSettings, trajectory: Trajectory) -> None:
    """The first step of denoising: every later one takes as much."""
    candidates = torch.arange(settings.block_length or settings.answer_length)
    decide(
        Decider(adapter, inputs, settings),
        inputs.embeddings.device,
        trajectory.states[0],
        candidates,
        settings,
        torch.Generator().manual_seed(settings.seed),
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
