"""Attention rollout: from the word's position back to the image tokens, along attention, block after block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dcam_core.attribution import ModelAttribution
from dcam_core.denoising.decision import Decider
from dcam_core.errors import ConfigurationError
from dcam_core.probing.replayed import ReplayedStates, states_apart
from dcam_plugins.attributions._attending import check_all_attended, full_replay, positions_of, with_weights

if TYPE_CHECKING:
    from dcam_core.probing.replays import Replays

__all__ = ["AttentionRollout"]

_SOFTMAX = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)


class AttentionRollout(ModelAttribution):
    """The rows of the word's positions in A_L ... A_1, with A_l = (mean over heads of attention + identity) / 2.

    Attention is read off the model while it runs: whatever a softmax spreads over all positions for all positions.
    No family need be known for it, only that every block attends once and in full; a model that does not is refused.
    The state is always replayed in full, prefix caching or not. The gradient target is not used.

    Args:
        identity: share of the residual path in every block.

    Source: Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020.
    """

    def __init__(self, *, identity: float = 0.5) -> None:
        super().__init__()
        if not 0 <= identity < 1:
            raise ConfigurationError(
                f"attention-rollout: identity is {identity}: give a share from 0 to below 1"
            )
        self.identity = identity

    def forward(self, replays: Replays) -> Tensor:
        """Attribute; see `ModelAttribution.forward`.

        Raises:
            ConfigurationError: the model does not attend once in every block, or not in one forward pass.
        """
        length, settings = full_replay("attention-rollout", replays)
        evidence = torch.zeros(len(replays.readings), len(replays.positions))
        for group in states_apart(replays.readings):
            attention = _Attention(length, replays.offload)
            decider = Decider(replays.adapter, replays.inputs, settings)
            with torch.no_grad(), with_weights(), attention:
                ReplayedStates(decider, replays.readings, [group], replays.device)
            check_all_attended("attention-rollout", replays, len(attention.weights))
            for index in group:
                flow = torch.zeros(length, device=replays.device)
                flow[positions_of(replays, index)] = 1
                for weights in reversed(attention.weights):
                    flow = self.identity * flow + (1 - self.identity) * (flow @ weights.to(flow.device))
                evidence[index] = flow[replays.positions].cpu()
        return evidence


class _Attention(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what softmax makes of scores of all positions by all positions, averaged over heads.

    Args:
        length: number of positions.
        keep: where the weights of all blocks are kept, [length, length] each; None: where they were computed.
    """

    def __init__(self, length: int, keep: torch.device | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: list[Tensor] = []
        self._shape, self._keep = (length, length), keep

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _SOFTMAX and output.shape[-2:] == self._shape:
            mean = output.flatten(0, -3).mean(dim=0, dtype=torch.float32)
            self.weights.append(mean if self._keep is None else mean.to(self._keep))
        return output
