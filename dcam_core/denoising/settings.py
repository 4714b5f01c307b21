"""The settings of one denoising run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcam_core.errors import ConfigurationError

__all__ = ["SamplerSettings"]


@dataclass(frozen=True)
class SamplerSettings:
    """How the answer is denoised. A family gives its defaults; the user changes any of them.

    Attributes:
        answer_length: number of positions G of the answer region, in tokens.
        steps: denoising steps over the whole answer; None: one token per step.
        block_length: the answer is denoised block by block of this many positions, from left to right;
            None: one block.
        schedule: how many tokens each step of a block commits, a name of
            `dcam_core.denoising.schedules.SCHEDULES`.
        shift: parameter of the "shift" schedule; > 1 starts slowly, < 1 starts fast.
        remasking: which predictions are kept at a step, a name of
            `dcam_core.denoising.remasking.REMASKING`; the others stay masked.
        temperature: 0 takes the most probable token; > 0 perturbs the logits with Gumbel noise drawn from
            a generator seeded with `seed`.
        guidance_scale: classifier-free guidance; 0 switches it off. The logits become
            `unconditional + (guidance_scale + 1) * (conditional - unconditional)`.
        suppressed_ids: token ids that may not be committed at a masked position.
        stop_sequences: token-id sequences that end the answer; the earliest occurrence counts.
        seed: seed of every random number of the run.
    """

    answer_length: int = 32
    steps: int | None = None
    block_length: int | None = None
    schedule: str = "uniform"
    shift: float = 3.0
    remasking: str = "low-confidence"
    temperature: float = 0.0
    guidance_scale: float = 0.0
    suppressed_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    seed: int = 0

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
        return (self.answer_length if self.steps is None else self.steps) // self.blocks

    @property
    def total_steps(self) -> int:
        """Steps of a run that is not ended early by a stop sequence."""
        return self.steps_per_block * self.blocks

    def merged(self, changes: Mapping[str, Any]) -> SamplerSettings:
        """These settings with some of them changed.

        Args:
            changes: field name -> value; a None value means "as it is".

        Raises:
            ConfigurationError: a name is not a setting, or a value has the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in fields:
                raise ConfigurationError(
                    f"unknown sampler setting 'sampler.{name}': there are {', '.join(sorted(fields))}"
                )
            if value is not None:
                values[name] = _converted(name, value, getattr(SamplerSettings, name))
        return dataclasses.replace(self, **values)


def _converted(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of the field's default; None defaults are optional integers."""
    try:
        if name == "suppressed_ids":
            return tuple(int(token) for token in value)
        if name == "stop_sequences":
            return tuple(tuple(int(token) for token in sequence) for sequence in value)
        kind = int if default is None else type(default)
        if kind is int and (isinstance(value, bool) or int(value) != float(value)):
            raise ValueError(value)
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"sampler.{name} is {value!r}, which is not a {type(default).__name__ if default is not None else 'int'}"
        ) from error
