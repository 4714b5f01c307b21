"""Score-CAM: channels weighted by what the model says when it sees only where they are active."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from einops import einsum
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_core.errors import ConfigurationError
from dcam_core.probing.replayed import states_apart
from dcam_plugins._numerics import at_least_float32

if TYPE_CHECKING:
    from dcam_core.inputs import Inputs
    from dcam_core.probing.replays import Replays

__all__ = ["ScoreCAM"]


class ScoreCAM(ModelAttribution):
    """M[s] = sum_c w_c H[s, c], with w = softmax over c of the score with the image tokens faded by H[:, c].

    H[:, c] is channel c at the image tokens, stretched to [0, 1]. A token is faded towards the mean of all image
    tokens: 1 leaves its embedding, 0 replaces it. Two departures from the paper, both because channels of a
    transformer have neither a common scale nor a sign: only the `channels` with the largest variance over the tokens
    are tried (one replay each, for every state), and the stretched channels are summed, not the raw ones.
    With several layers, the channels of all are candidates.

    Args:
        channels: how many channels are tried.

    Source: Wang et al., "Score-CAM", CVPR workshops 2020.
    """

    def __init__(self, *, channels: int = 32) -> None:
        super().__init__()
        if channels < 1:
            raise ConfigurationError(f"score-cam: channels is {channels}: give at least 1")
        self.channels = channels

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`."""
        evidence = torch.zeros(len(replays.readings), len(replays.positions))
        for group in states_apart(replays.readings):
            own = replace(replays, readings=[replays.readings[index] for index in group])
            # Readings of one state share its activations: one of them is enough to get these.
            first = replace(own, readings=own.readings[:1])
            layers = [at_least_float32(activations[0]) for activations in first.activations()]
            masks = self._masks(torch.cat(layers, dim=-1))
            scores = torch.stack(list(own.scores(_faded(own, masks))), dim=1)
            evidence[group] = einsum(scores.softmax(dim=1), masks.cpu().float(), "r k, k n -> r n")
        return evidence

    def _masks(self, features: Tensor) -> Tensor:
        """[K, N] in [0, 1], the channels of [N, C] that vary most; a constant channel fades everything."""
        most = features.var(dim=0, correction=0).topk(min(self.channels, features.shape[1])).indices
        chosen = features[:, most].mT
        low, high = chosen.aminmax(dim=1, keepdim=True)
        return (chosen - low) / (high - low).where(high > low, 1)


def _faded(replays: Replays, masks: Tensor) -> Iterator[Inputs]:
    """The prompt with its image tokens faded towards their mean, once for each of the masks [K, N]."""
    tokens = replays.inputs.embeddings[0, replays.positions]
    mean = tokens.mean(dim=0)
    for mask in masks.to(tokens):
        embeddings = replays.inputs.embeddings.clone()
        embeddings[0, replays.positions] = mean + mask[:, None] * (tokens - mean)
        yield replace(replays.inputs, embeddings=embeddings)
