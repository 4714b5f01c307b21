"""One answer explained by many methods: what some of them have in common is computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dcam_core.explainer import Explainer
from dcam_core.results.run import ExplainedRun, ProbedRun

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.targets import Answer, Target

__all__ = ["SharedRuns"]


@dataclass(frozen=True, eq=False)
class SharedRuns:
    """Explains words of one answer by methods of one model. Methods that differ in refiners alone share raw maps.

    Attributes:
        inputs: the prepared prompt.
        trajectory: the recorded run.
        answer: its answer.
        targets: the words.
        pictures: the pictures of the prompt.
    """

    inputs: Inputs
    trajectory: Trajectory
    answer: Answer
    targets: Sequence[Target]
    pictures: Sequence[Image]
    _probed: list[tuple[dict[str, Any], ProbedRun, float]] = field(default_factory=list, init=False)

    def explain(self, explainer: Explainer) -> tuple[ExplainedRun, float]:
        """The maps of one method.

        Args:
            explainer: the method; it was given neither functions nor plugins of its own.

        Returns:
            What `Explainer.explain_run` gives, and the seconds that the method takes by itself: raw maps that another
            one made count as if they had been made anew.
        """
        probed, seconds = self.probe(explainer)
        began = time.perf_counter()
        run = explainer.refine_run(probed, self.trajectory, self.answer, self.targets, pictures=self.pictures)
        return run, seconds + time.perf_counter() - began

    def probe(self, explainer: Explainer) -> tuple[ProbedRun, float]:
        """Raw maps, and the seconds that they took when they were made."""
        settings = explainer.raw_settings(self.trajectory)
        for known, probed, seconds in self._probed:
            if known == settings:
                return probed, seconds
        began = time.perf_counter()
        probed = explainer.probe_run(self.inputs, self.trajectory, self.targets, pictures=self.pictures)
        seconds = time.perf_counter() - began
        self._probed.append((settings, probed, seconds))
        return probed, seconds
