"""When a token was decided, in a sampler that may take back what it has accepted."""

from __future__ import annotations

from torch import Tensor

__all__ = ["commit_steps"]


def commit_steps(tokens: Tensor, accepted: Tensor) -> Tensor:
    """The step that decided each position: the first after which its final token stood and was never taken back.

    A position is taken back when it becomes random again, or another token. What the last step says is final, so
    every position is decided then at the latest.

    Args:
        tokens: [steps, K] int64, what stood at each position after each step; the last row is the final canvas.
        accepted: [steps, K] bool, whether it stood there because it was accepted, and not as noise. The last row is
            not read.

    Returns:
        [K] int64, steps counted from 0.
    """
    stands = accepted & (tokens == tokens[-1])
    stands[-1] = True
    # How many steps, counted back from the end, the final token has stood without a gap.
    unbroken = stands.flip(0).cumprod(0).sum(0)
    return len(tokens) - unbroken
