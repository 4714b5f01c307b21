"""Gradient targets: the scalar whose gradient says what the picture did to a word.

Each is a plugin of the hook `dcam_gradient_target`: asked for a name, it answers with a callable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.probing.targets import Target

__all__ = ["GRADIENT_TARGETS", "GradientTarget", "NamedGradientTarget", "Score"]

Score = Callable[[Tensor, Tensor], Tensor]
"""(logits [p + c, V] float32, token ids [p] int64) -> scalar. The first p rows are the positions of the
word's tokens, the last c those of `GradientTarget.context`."""


@dataclass(frozen=True)
class GradientTarget:
    """A scalar to differentiate.

    Attributes:
        score: the function of the logits; must be differentiable.
        context: further answer positions whose logits it reads, after those of the word.
    """

    score: Score
    context: tuple[int, ...] = ()


class NamedGradientTarget(ABC):
    """A gradient target that answers `dcam_gradient_target` when it is asked for by its name."""

    name: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def build(self, target: Target, adapter: Adapter, **parameters: Any) -> GradientTarget:
        """The scalar for one target."""

    @hookimpl(trylast=True)
    def dcam_gradient_target(
        self, name: str, parameters: Mapping[str, Any], target: Target, adapter: Adapter
    ) -> GradientTarget | None:
        """Answer if this target is the one asked for."""
        if name != self.name:
            return None
        for parameter in parameters:
            if parameter not in self.parameters:
                there = ", ".join(self.parameters) or "none"
                raise ConfigurationError(
                    f"unknown parameter 'gradient_target.{parameter}' of {name!r}: there are {there}"
                )
        return self.build(target, adapter, **{**self.parameters, **parameters})


def _reduction(name: str) -> Callable[[Tensor], Tensor]:
    """How the tokens of a word or phrase are put together."""
    reductions: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum}
    if name not in reductions:
        raise ConfigurationError(f"gradient_target.reduction is {name!r}: give {' or '.join(reductions)}")
    return reductions[name]


def _chosen(rows: Tensor, token_ids: Tensor) -> Tensor:
    """[p], the entry of each of the word's tokens in [p + c, V] rows."""
    return rows[: len(token_ids)].gather(-1, token_ids[:, None])[:, 0]


class Logit(NamedGradientTarget):
    """The logit by which the model decided, over the tokens of the word (paper variant)."""

    name = "logit"
    parameters: ClassVar[Mapping[str, Any]] = {"reduction": "mean"}

    def build(self, target: Target, adapter: Adapter, **parameters: Any) -> GradientTarget:
        """`reduction`: "mean" over the word's tokens, or "sum" over a phrase."""
        reduce = _reduction(parameters["reduction"])
        return GradientTarget(lambda logits, token_ids: reduce(_chosen(logits, token_ids)))


class LogProbability(NamedGradientTarget):
    """The log-probability of the word's tokens."""

    name = "log-probability"
    parameters: ClassVar[Mapping[str, Any]] = {"reduction": "mean"}

    def build(self, target: Target, adapter: Adapter, **parameters: Any) -> GradientTarget:
        """`reduction`: "mean" over the word's tokens, or "sum" over a phrase (its joint probability)."""
        reduce = _reduction(parameters["reduction"])
        return GradientTarget(lambda logits, token_ids: reduce(_chosen(logits.log_softmax(-1), token_ids)))


class Contrast(NamedGradientTarget):
    """The word's logit minus that of another word at the same position: why this and not that."""

    name = "contrast"
    parameters: ClassVar[Mapping[str, Any]] = {"against": None, "reduction": "mean"}

    def build(self, target: Target, adapter: Adapter, **parameters: Any) -> GradientTarget:
        """`against`: the other word; None: the runner-up, the best-scored other token at each position."""
        reduce = _reduction(parameters["reduction"])
        against = parameters["against"]
        if against is None:

            def against_runner_up(logits: Tensor, token_ids: Tensor) -> Tensor:
                own = logits[: len(token_ids)]
                others = own.scatter(-1, token_ids[:, None], float("-inf"))
                return reduce(_chosen(logits, token_ids) - others.amax(-1))

            return GradientTarget(against_runner_up)
        other = _ids_like(str(against), target, adapter)

        def against_word(logits: Tensor, token_ids: Tensor) -> Tensor:
            return reduce(_chosen(logits, token_ids) - _chosen(logits, other.to(logits.device)))

        return GradientTarget(against_word)


def _ids_like(word: str, target: Target, adapter: Adapter) -> Tensor:
    """Token ids of another word, as many as the target has.

    A tokenizer may write a word with or without the space before it: the form that fits is taken.
    """
    if adapter.tokenizer is None:
        raise ConfigurationError("gradient_target.against needs a tokenizer, and this model has none")
    forms = [f" {word}", word] if target.tokens[0][:1].isspace() else [word, f" {word}"]
    unknown = adapter.tokenizer.unk_token_id
    for form in forms:
        ids = adapter.tokenizer(form, add_special_tokens=False)["input_ids"]
        if len(ids) == len(target.token_ids) and unknown not in ids:
            return torch.tensor(ids)
    raise ConfigurationError(
        f"gradient_target.against={word!r} is not written with {len(target.token_ids)} known token(s) as "
        f"{target.word!r} is: choose another word, or leave it out to contrast with the runner-up"
    )


class VocabularyContrast(NamedGradientTarget):
    """Sum of all logits at the word's position minus the sum at another position.

    What the released Diffusion-CAM code differentiates (defects D2 and D3 of it): not specific to the word.
    Offered for parity only.
    """

    name = "vocabulary-contrast"
    parameters: ClassVar[Mapping[str, Any]] = {"distractor": 0}

    def build(self, target: Target, adapter: Adapter, **parameters: Any) -> GradientTarget:
        """`distractor`: the answer position whose summed logits are subtracted."""

        def score(logits: Tensor, token_ids: Tensor) -> Tensor:
            # Suppressed tokens are -inf here and were finite upstream: they are left out of both sums.
            sums = torch.where(logits.isfinite(), logits, 0).sum(-1)
            return sums[: len(token_ids)].mean() - sums[-1]

        return GradientTarget(score, context=(int(parameters["distractor"]),))


GRADIENT_TARGETS: tuple[NamedGradientTarget, ...] = (
    Logit(),
    LogProbability(),
    Contrast(),
    VocabularyContrast(),
)
"""The gradient targets that come with the core, as plugins."""
