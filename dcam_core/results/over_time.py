"""Words over the denoising, as they are kept: their maps and probabilities at the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dcam_core.errors import DcamError
from dcam_core.results.picture_maps import choose_picture

__all__ = ["MovingMaps", "OverTime"]

_ROUNDING = 1e-5  # how far rounding may carry a map out of [0, 1]


class MovingMaps(NamedTuple):
    """Maps over one picture, at S steps.

    Attributes:
        raw: [S, T, H, W] float32 on the CPU, maps on the picture grid before refinement, not normalised.
        maps: [S, T, H', W'] float32 on the CPU, in [0, 1], on one scale per word over all steps and pictures; on a
            finer grid if a refiner makes it finer.
    """

    raw: Tensor
    maps: Tensor


@dataclass(frozen=True, eq=False)
class OverTime:
    """T words of an answer at S denoising steps.

    At a step a word is asked about with what stood of the answer by then, itself undecided: up to the step that
    decided it that is what the model read during the run, later the word is hidden again
    (`dcam_core.probing.over_time`).

    Attributes:
        steps: S step numbers, ascending; each is the step that read the state, and the last, `taken`, stands for the
            finished answer.
        taken: how many steps the run took.
        texts: the answer as it stood at each, undecided tokens as a blank.
        probabilities: [S, T] float32 on the CPU, the probability of all of a word's tokens; NaN at a step that did
            not compute the word (of a family that writes part by part).
        commit_steps: for each word, the step that decided its last token; None if none did.
        pictures: the maps over each picture of the prompt; `raw` and `maps` are those of the only picture.

    Raises:
        DcamError: the parts do not fit each other, or a number is out of its range.
    """

    steps: tuple[int, ...]
    taken: int
    texts: tuple[str, ...]
    probabilities: Tensor
    commit_steps: tuple[int | None, ...]
    pictures: tuple[MovingMaps, ...]

    def __post_init__(self) -> None:
        ascending = all(0 <= a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or self.steps[-1] != self.taken or not ascending:
            raise DcamError(
                f"steps over time are {list(self.steps)}: they must ascend from 0 or more to {self.taken}, the "
                "number of steps taken"
            )
        words = len(self.commit_steps)
        if len(self.texts) != len(self.steps) or self.probabilities.shape != (len(self.steps), words):
            raise DcamError(
                f"over time there are {len(self.steps)} steps of {words} words, but {len(self.texts)} texts and "
                f"probabilities {list(self.probabilities.shape)}: give one text per step and [steps, words]"
            )
        known = self.probabilities[~self.probabilities.isnan()]
        if ((known < 0) | (known > 1)).any():
            raise DcamError(
                f"a probability over time is {known[(known < 0) | (known > 1)][0]:.4g}: not in [0, 1]"
            )
        if not self.pictures:
            raise DcamError("words over time need maps over at least one picture: none was given")
        for part in self.pictures:
            for name, maps in part._asdict().items():
                if maps.ndim != 4 or maps.shape[:2] != (len(self.steps), words) or not maps.isfinite().all():
                    raise DcamError(
                        f"{name} over time has shape {list(maps.shape)}: it must be finite, [{len(self.steps)} "
                        f"steps, {words} words, rows, columns]"
                    )
            if part.maps.numel() and (part.maps.min() < -_ROUNDING or part.maps.max() > 1 + _ROUNDING):
                raise DcamError(
                    f"maps over time have values from {part.maps.min():.6g} to {part.maps.max():.6g}: not in [0, 1]"
                )

    @property
    def raw(self) -> Tensor:
        """Raw maps of the only picture, as in `MovingMaps`."""
        return choose_picture(self.pictures, None, "pictures[0].raw").raw

    @property
    def maps(self) -> Tensor:
        """Refined maps of the only picture, as in `MovingMaps`."""
        return choose_picture(self.pictures, None, "pictures[0].maps").maps

    @property
    def evidence(self) -> Tensor:
        """[S, T] float32, what spoke for each word at each step: its raw maps, summed over all pictures."""
        return torch.stack([part.raw.clamp(min=0).sum((-2, -1)) for part in self.pictures]).sum(0)

    def named(self, number: int) -> str:
        """How people call a step, by its number in `steps`: "step 3", or "the finished answer"."""
        step = self.steps[number]
        return "the finished answer" if step == self.taken else f"step {step}"

    def checked(self, targets: Sequence[object], pictures: int) -> OverTime:
        """A copy on the CPU as float32 that fits some targets and pictures.

        Raises:
            DcamError: it is about another number of words or pictures.
        """
        if len(self.commit_steps) != len(targets) or len(self.pictures) != pictures:
            raise DcamError(
                f"over time there are {len(self.commit_steps)} words and {len(self.pictures)} pictures: the "
                f"explanation has {len(targets)} and {pictures}"
            )
        return replace(
            self,
            probabilities=_copy(self.probabilities),
            pictures=tuple(
                MovingMaps(_copy(part.raw), _copy(part.maps).clamp(0.0, 1.0)) for part in self.pictures
            ),
        )


def _copy(values: Tensor) -> Tensor:
    """A copy on the CPU as float32, without a graph."""
    return values.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
