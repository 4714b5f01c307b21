"""Input gradient: how much the score moves with the image tokens that enter the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import einsum
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_plugins._numerics import at_least_float32

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["InputGradient"]


class InputGradient(ModelAttribution):
    """M[s] = |sum_d G[s, d] E[s, d]|, or the norm of G[s]; E are the embeddings of the image tokens, G the gradient.

    The gradient goes back to the embeddings and not to the pixels: every family has them, one for each token, while
    some turn the picture into ids first, through which no gradient passes. No layer is probed.

    Args:
        times_input: multiply by the embedding: what the token contributed, to first order. False: the length of the
            gradient alone, which says how sensitive the score is to the token.

    Source: Simonyan et al., "Deep inside convolutional networks", 2013; Shrikumar et al., "Not just a black box",
    2016.
    """

    def __init__(self, *, times_input: bool = True) -> None:
        super().__init__()
        self.times_input = times_input

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`."""
        embeddings = at_least_float32(replays.inputs.embeddings[0, replays.positions])
        evidence = embeddings.new_zeros(len(replays.readings), len(embeddings))
        for index, gradient in replays.input_gradients():
            slopes = at_least_float32(gradient)
            if self.times_input:
                evidence[index] = einsum(slopes, embeddings, "n d, n d -> n").abs()
            else:
                evidence[index] = slopes.norm(dim=-1)
        return evidence
