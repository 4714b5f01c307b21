"""Who is told how far the work is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress"]


class Progress(Protocol):
    """Hears how far the work is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called after every step of a stage.

        Args:
            stage: "denoising" (done and total are steps), "measuring" the words' reliance on the picture (they are
                replays), "explaining" (they are readings) or "over time" (they are, too).
            done: how many are done.
            total: how many there are; denoising may end early.
        """
