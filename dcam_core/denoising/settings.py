"""The settings of one denoising run."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from dcam_core.errors import ConfigurationError

__all__ = ["SamplerSettings"]


@dataclass(frozen=True)
class SamplerSettings:
    """How the answer is denoised. A family gives its defaults; the user changes any of them.

    A family with a sampler of its own adds settings in a subclass (a frozen dataclass whose annotations are
    evaluated where it is defined), and names those of the settings below that mean nothing to it in `unused`.

    Attributes:
        answer_length: number of positions G of the answer region, in tokens.
        steps: denoising steps over the whole answer; None: one token per step.
        step_ratio: the steps as a share of the answer's length, rounded down per block; instead of `steps`.
        block_length: the answer is denoised block by block of this many positions, from left to right;
            None: one block.
        draft_ids: ids that the answer begins with; mask ids among them are filled in, the others stay
            as they are (infilling).
        schedule: how many tokens each step of a block commits, a name of
            `dcam_core.denoising.schedules.SCHEDULES`.
        shift: parameter of the "shift" schedule; > 1 starts slowly, < 1 starts fast.
        remasking: which predictions are kept at a step, a name of
            `dcam_core.denoising.remasking.REMASKING`; the others stay masked.
        temperature: 0 takes the most probable token; > 0 perturbs the logits with Gumbel noise drawn from
            a generator seeded with `seed`.
        top_k: at each position only the k most probable tokens count, for the choice and for how sure it is;
            None: all.
        top_p: only the most probable tokens that together have this probability count; None: all.
        guidance_scale: classifier-free guidance; 0 switches it off. The logits become
            `unconditional + (guidance_scale + 1) * (conditional - unconditional)`.
        suppressed_ids: token ids that may not be committed at a masked position.
        stop_sequences: token-id sequences that end the answer; the earliest occurrence counts.
        cache: what is kept between the forward passes of a run, a name out of the adapter's `caches`; None:
            every step computes the whole sequence. "prefix": the prompt is read once and does not see the
            answer (`Adapter.encode_prefix`).
        prompt_interval: "dllm" cache: steps between two computations of the prompt's rows.
        answer_interval: "dllm" cache: steps between two computations of all of the answer's rows.
        transfer_ratio: "dllm" cache: share of the answer's rows, in [0, 1], computed at the other steps.
        seed: seed of every random number of the run.
    """

    answer_length: int = 32
    steps: int | None = None
    step_ratio: float | None = None
    block_length: int | None = None
    draft_ids: tuple[int, ...] = ()
    schedule: str = "uniform"
    shift: float = 3.0
    remasking: str = "low-confidence"
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    guidance_scale: float = 0.0
    suppressed_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    cache: str | None = None
    prompt_interval: int = 25
    answer_interval: int = 7
    transfer_ratio: float = 0.25
    seed: int = 0

    unused: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that mean nothing to the family's sampler: they are refused, and not recorded."""

    def __post_init__(self) -> None:
        # Names are checked where they are looked up; here, the arithmetic that every run relies on.
        if self.answer_length < 1:
            raise ConfigurationError(f"sampler.answer_length is {self.answer_length}: give at least 1")
        if self.block_length is not None and (
            self.block_length < 1 or self.answer_length % self.block_length != 0
        ):
            raise ConfigurationError(
                f"sampler.block_length is {self.block_length}, which does not divide "
                f"sampler.answer_length = {self.answer_length}: choose a divisor"
            )
        if self.steps is not None and (self.steps < 1 or self.steps % self.blocks != 0):
            raise ConfigurationError(
                f"sampler.steps is {self.steps}, which is not a multiple of the {self.blocks} blocks "
                f"(answer_length / block_length): choose a multiple"
            )
        if self.step_ratio is not None and self.steps is not None:
            raise ConfigurationError(
                f"sampler.steps is {self.steps} and sampler.step_ratio is {self.step_ratio}: give one of them"
            )
        if self.step_ratio is not None and self.steps_per_block < 1:
            raise ConfigurationError(
                f"sampler.step_ratio is {self.step_ratio}, which leaves no step for a block of "
                f"{self.answer_length // self.blocks} tokens: give a larger one"
            )
        if len(self.draft_ids) > self.answer_length:
            raise ConfigurationError(
                f"sampler.draft_ids holds {len(self.draft_ids)} ids, sampler.answer_length is "
                f"{self.answer_length}: give a longer answer region or a shorter draft"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigurationError(f"sampler.top_k is {self.top_k}: give at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigurationError(f"sampler.top_p is {self.top_p}: give a probability above 0, at most 1")
        if min(self.prompt_interval, self.answer_interval) < 1 or not 0 <= self.transfer_ratio <= 1:
            raise ConfigurationError(
                f"sampler.prompt_interval is {self.prompt_interval}, sampler.answer_interval "
                f"{self.answer_interval}, sampler.transfer_ratio {self.transfer_ratio}: give intervals of at "
                "least 1 and a ratio in [0, 1]"
            )
        if self.temperature < 0:
            raise ConfigurationError(f"sampler.temperature is {self.temperature}: give 0 or more")
        if self.shift <= 0:
            raise ConfigurationError(f"sampler.shift is {self.shift}: give a number above 0")

    @property
    def blocks(self) -> int:
        """Number of blocks the answer region is cut into."""
        return 1 if self.block_length is None else self.answer_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        """Denoising steps spent on each block."""
        if self.step_ratio is not None:
            return int(self.answer_length // self.blocks * self.step_ratio)
        return (self.answer_length if self.steps is None else self.steps) // self.blocks

    @property
    def total_steps(self) -> int:
        """Steps of a run that is not ended early by a stop sequence."""
        return self.steps_per_block * self.blocks

    def shortened(self, length: int) -> Self:
        """These settings for a shorter answer, in one block with one step per token; for trying a model out.

        Args:
            length: positions of the answer, >= 1. A family that cannot write as few writes as few as it can.
        """
        return dataclasses.replace(self, answer_length=length, steps=None, step_ratio=None, block_length=None)

    def as_dict(self) -> dict[str, Any]:
        """Name -> value of every setting that means something to the family's sampler."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in self.unused}

    def merged(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some of them changed.

        Args:
            changes: field name -> value; a None value means "as it is".

        Raises:
            ConfigurationError: a name is not a setting, or means nothing to the family, or a value has the wrong
                type.
        """
        there = sorted({field.name for field in dataclasses.fields(self)} - self.unused)
        annotated = get_type_hints(type(self))
        hints = {field.name: annotated[field.name] for field in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for name, value in changes.items():
            if name in self.unused and value is not None:
                raise ConfigurationError(
                    f"sampler.{name} means nothing to this model's sampler: it has {', '.join(there)}"
                )
            if name not in hints:
                raise ConfigurationError(
                    f"unknown sampler setting 'sampler.{name}': there are {', '.join(there)}"
                )
            if value is not None:
                values[name] = _converted(f"sampler.{name}", value, hints[name])
        # The number of steps is said in one of two ways: naming one replaces the other.
        if values.keys() & {"steps", "step_ratio"}:
            values = {"steps": None, "step_ratio": None} | values
        return dataclasses.replace(self, **values)


def _converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as a setting of an annotated type: int, float, str, tuples of them; `| None` allowed."""
    if isinstance(hint, types.UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not types.NoneType)
    kind = get_origin(hint) or hint
    try:
        if kind is tuple:
            return tuple(_converted(name, item, get_args(hint)[0]) for item in value)
        if kind is int and (isinstance(value, bool) or int(value) != float(value)):
            raise ValueError(value)
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} is {value!r}, which is not a {kind.__name__}") from error
