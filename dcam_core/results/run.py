"""What the engine gives for words of a recorded run: their records, and their maps over every picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from dcam_core.results.picture_maps import choose_picture
from dcam_core.results.words import ExplainedTarget

__all__ = ["ExplainedRun", "ProbedRun", "RunMaps"]


class RunMaps(NamedTuple):
    """Maps over one picture.

    Attributes:
        raw: [T, H, W] float32 on the CPU, maps on the picture grid before refinement, not normalised.
        maps: [T, H, W] float32 on the CPU, in [0, 1].
    """

    raw: Tensor
    maps: Tensor


@dataclass(frozen=True, eq=False)
class ProbedRun:
    """What the model and a method's attribution gave for words of one recorded run, before refinement.

    Attributes:
        targets: T records, one per map.
        raw: one [T, H, W] float32 per picture of the prompt, on the model's device, not normalised.
        decided_by: setting -> who decided it, where that was neither the method nor dcam itself.
        seconds: of the attribution's own work; replays that it was fed from are not in it.
    """

    targets: tuple[ExplainedTarget, ...]
    raw: tuple[Tensor, ...]
    decided_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class ExplainedRun:
    """Maps for words of one recorded run.

    Attributes:
        targets: T records, one per map.
        pictures: the maps over each picture of the prompt; `raw` and `maps` are those of the only picture.
        decided_by: setting -> who decided it, where that was neither the method nor dcam itself.
    """

    targets: tuple[ExplainedTarget, ...]
    pictures: tuple[RunMaps, ...]
    decided_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def raw(self) -> Tensor:
        """Raw maps of the only picture, as in `RunMaps`."""
        return choose_picture(self.pictures, None, "pictures[0].raw").raw

    @property
    def maps(self) -> Tensor:
        """Refined maps of the only picture, as in `RunMaps`."""
        return choose_picture(self.pictures, None, "pictures[0].maps").maps
