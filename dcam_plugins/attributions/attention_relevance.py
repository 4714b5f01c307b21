"""Attention relevance: attention rollout in which every weight counts by what it does for the word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, reduce
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dcam_core.attribution import ModelAttribution
from dcam_plugins.attributions._attending import check_all_attended, full_replay, positions_of, with_weights

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["AttentionRelevance"]


class AttentionRelevance(ModelAttribution):
    """The rows of the word's positions in (1 + R_L) ... (1 + R_1), with R_l = mean over heads of ReLU(A_l dS/dA_l).

    A_l is the attention of block l and S the scalar. Where `AttentionRollout` follows all attention, whichever word
    stands there, this follows what speaks for the word, through all blocks.

    Attention and its gradient are read off the model's backward pass, in which the last block comes first, so that
    rows are multiplied as blocks go by and nothing is kept. No family need be known for it, only that every block
    attends once and in full; a model that does not is refused. The state is always replayed in full, prefix caching
    or not, and without guidance. The graph reaches through all blocks and holds weights of attention, N x N for each
    head: `checkpointing` lets it hold one block's at a time.

    Source: Chefer, Gur and Wolf, "Generic attention-model explainability for interpreting bi-modal and
    encoder-decoder transformers", ICCV 2021, equations 5 and 6.
    """

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`.

        Raises:
            ConfigurationError: the model does not attend once in every block, or not in one forward pass.
        """
        length, settings = full_replay("attention-relevance", replays)

        def relevance(members: Sequence[Sequence[int]]) -> dict[int, Tensor]:
            """Of the readings of some states, [N] each."""
            found: dict[int, Tensor] = {}
            with with_weights(), replays.with_gradients(members, settings) as (leaf, replayed):
                # Readings of different states share a backward pass; those of one state have one each.
                for turn in range(turns := max(map(len, members))):
                    pairs = [(row, group[turn]) for row, group in enumerate(members) if turn < len(group)]
                    flow = torch.zeros(len(members), length, device=replays.device)
                    for row, index in pairs:
                        flow[row, positions_of(replays, index)] = 1
                    scores = torch.stack([replayed.score(row, index) for row, index in pairs])
                    attention = _AttentionGradients(flow)
                    if scores.requires_grad:
                        with attention:
                            torch.autograd.grad(scores.sum(), leaf, retain_graph=turn + 1 < turns)
                    check_all_attended("attention-relevance", replays, attention.seen)
                    for row, index in pairs:
                        found[index] = attention.flow[row, replays.positions].cpu()
            return found

        return torch.stack(replays.of_each(relevance))


class _AttentionGradients(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiplies rows by 1 + R_l whenever a backward pass goes through a softmax of all positions by all positions.

    Args:
        flow: [S, length] float32, a row for each state of the pass.

    Attributes:
        flow: the rows as they are now.
        seen: by how many blocks.
    """

    def __init__(self, flow: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow, self.seen = flow, 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._softmax_backward_data.default:
            self._through(gradients=args[0], weights=args[1])
        return func(*args, **(kwargs or {}))

    def _through(self, gradients: Tensor, weights: Tensor) -> None:
        """Go back through a softmax; both are [..., rows, columns] with all states and heads in front."""
        states, length = self.flow.shape
        if weights.shape[-2:] != (length, length):
            return
        speaks_for = (weights * gradients).relu().flatten(0, -3).float()
        relevance = reduce(speaks_for, "(s h) i j -> s i j", "mean", s=states).to(self.flow.device)
        self.flow = self.flow + einsum(self.flow, relevance, "s i, s i j -> s j")
        self.seen += 1
