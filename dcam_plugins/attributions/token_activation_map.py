"""TAM: what the model would say at the image tokens, less what earlier words of the answer explain of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.attribution import ModelAttribution
from dcam_core.errors import ConfigurationError
from dcam_plugins._numerics import least_squares_scale

if TYPE_CHECKING:
    from dcam_core.probing.replayed import Reading
    from dcam_core.probing.replays import Replays

__all__ = ["TokenActivationMap", "estimated_causal_inference"]

_ORDERS = ("commit", "position")


def estimated_causal_inference(maps: Tensor, scores: Tensor, earlier: Tensor) -> Tensor:
    """Take from each token's map what earlier tokens' maps explain of it.

    The interference of token v is E_v = sum_i w_vi maps_i over its earlier tokens i, with weights in proportion to
    the score of v where i stands. What is left of its map is max(maps_v - x E_v, 0), with the x that fits best.

    Args:
        maps: [T, N] floating, the raw map of every token, >= 0.
        scores: [T, T], of token v (row) at the place of token i (column), >= 0.
        earlier: [T, T] bool, whether i counts for v.

    Returns:
        [T, N], >= 0; a token without earlier ones keeps its map.

    Source: Li et al., "Token Activation Map", ICCV 2025; specification of the method, section 10.3.
    """
    weights = scores.where(earlier, torch.zeros_like(scores))
    weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-8)
    interference = weights @ maps
    return (maps - least_squares_scale(maps, interference)[:, None] * interference).relu()


class TokenActivationMap(ModelAttribution):
    """Logit lens on the image tokens with estimated causal inference, for models that write in any order.

    The raw map of a token is its own logit at every image token, where positive: the head reads the last hidden
    states of the reading's forward pass. The score of a token at the place of another is its logit there in the
    finished answer. Earlier are the tokens of the answer that were decided before, and have another id.

    TAM was made for models that write from left to right. Here the logit at a position speaks for that position
    itself, so nothing is shifted; and the prompt's own words, whose ids an adapter need not know, are left out of the
    interference. The rank-Gaussian filter of TAM is the refiner `rank-gaussian`, in the preset `tam`.

    Args:
        order: what "earlier" means: "commit", decided at an earlier step (in the same step: further to the left), or
            "position", further to the left.

    Source: Li et al., "Token Activation Map", ICCV 2025; specification of the method, section 10.3.
    """

    def __init__(self, *, order: str = "commit") -> None:
        super().__init__()
        if order not in _ORDERS:
            raise ConfigurationError(f"tam: order is {order!r}: give {' or '.join(map(repr, _ORDERS))}")
        self.order = order

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`."""
        answer = replays.trajectory.answer_ids.tolist()
        vocabulary = sorted({*answer, *(token for each in replays.readings for token in each.token_ids)})
        columns = {token: column for column, token in enumerate(vocabulary)}
        ids = torch.tensor(vocabulary, device=replays.device)
        at_image = replays.image_logits(ids).relu()  # [R, N, K]
        at_answer = replays.answer_logits()[:, ids].relu()  # [A, K]
        rank = self._rank(replays)
        evidence = []
        for reading, lens in zip(replays.readings, at_image, strict=True):
            tokens = _as_read(answer, reading)
            chosen = torch.tensor([columns[token] for token in tokens], device=replays.device)
            another = chosen[:, None] != chosen
            cleaned = estimated_causal_inference(
                lens[:, chosen].mT, at_answer[:, chosen].mT, another & (rank < rank[:, None])
            )
            evidence.append(cleaned[list(reading.positions)].mean(dim=0))
        return torch.stack(evidence)

    def _rank(self, replays: Replays) -> Tensor:
        """[A], the order in which the tokens of the answer were decided."""
        steps = replays.trajectory.commit_steps[: replays.trajectory.answer_length]
        place = torch.arange(len(steps), device=replays.device)
        # What was given came before all steps (-2). A stable sort leaves ties in reading order.
        return place if self.order == "position" else steps.argsort(stable=True).argsort().to(place)


def _as_read(answer: list[int], reading: Reading) -> list[int]:
    """The ids of the answer, with those that are read in their places: they need not be the ones that were said."""
    tokens = list(answer)
    for position, token in zip(reading.positions, reading.token_ids, strict=True):
        tokens[position] = token
    return tokens
