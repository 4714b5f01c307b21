"""Remasking rules: how sure the model is of each prediction. The surest are kept, the others stay masked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["REMASKING", "Confidence"]

Confidence = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(probabilities [P, V] float64, chosen ids [P], generator) -> confidence [P] float64, larger is kept first."""


def _low_confidence(probabilities: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Probability of the chosen token: the least confident are remasked (LLaDA)."""
    return probabilities.gather(-1, chosen[:, None])[:, 0]


def _random(probabilities: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise: the order does not depend on the model."""
    noise = torch.rand(len(chosen), dtype=torch.float64, generator=generator)
    return noise.to(probabilities.device)


def _margin(probabilities: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Probability of the best token minus that of the second best."""
    best = probabilities.topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


def _entropy(probabilities: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Negative entropy in nats; 1e-10 keeps log(0) finite, as published (LaViDa, Dream)."""
    return (probabilities * torch.log(probabilities + 1e-10)).sum(-1)


REMASKING: dict[str, Confidence] = {
    "low-confidence": _low_confidence,
    "random": _random,
    "margin": _margin,
    "entropy": _entropy,
}
"""Name -> confidence of every prediction."""
