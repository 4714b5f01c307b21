"""One answer explained by many methods: what some of them have in common is computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dcam_core.explainer import Explainer
from dcam_core.results.run import ExplainedRun, ProbedRun

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.inputs import Inputs
    from dcam_core.probing.targets import Answer, Target

__all__ = ["SharedRuns"]


class _Known(NamedTuple):
    """Raw maps, what they depend on, and the seconds that a method takes for them by itself."""

    settings: dict[str, Any]
    probed: ProbedRun
    seconds: float


@dataclass(frozen=True, eq=False)
class SharedRuns:
    """Explains words of one answer by methods of one model.

    Methods that differ in refiners alone share raw maps. Those whose attributions are fed the same activations and
    gradients share the replays that these come from: a batch of replayed states feeds all of them, and is let go, so
    that sharing needs no memory.

    Attributes:
        inputs: the prepared prompt.
        trajectory: the recorded run.
        answer: its answer.
        targets: the words.
        pictures: the pictures of the prompt.
        explainers: the methods that will be asked for; others may be, but share no replays. They were given neither
            functions nor plugins of their own.
    """

    inputs: Inputs
    trajectory: Trajectory
    answer: Answer
    targets: Sequence[Target]
    pictures: Sequence[Image]
    explainers: Sequence[Explainer] = ()
    _known: list[_Known] = field(default_factory=list, init=False)

    def explain(self, explainer: Explainer) -> tuple[ExplainedRun, float]:
        """The maps of one method.

        Args:
            explainer: the method.

        Returns:
            What `Explainer.explain_run` gives, and the seconds that the method takes by itself: what others share
            counts as if it had been made for this one alone.
        """
        probed, seconds = self.probe(explainer)
        began = time.perf_counter()
        run = explainer.refine_run(probed, self.trajectory, self.answer, self.targets, pictures=self.pictures)
        return run, seconds + time.perf_counter() - began

    def probe(self, explainer: Explainer) -> tuple[ProbedRun, float]:
        """Raw maps, and the seconds that they take by themselves."""
        known = self._find(explainer) or self._make(explainer)
        return known.probed, known.seconds

    def knows(self, explainer: Explainer) -> bool:
        """Whether the raw maps of a method were made."""
        return self._find(explainer) is not None

    def _find(self, explainer: Explainer) -> _Known | None:
        settings = explainer.raw_settings(self.trajectory)
        return next((each for each in self._known if each.settings == settings), None)

    def _make(self, explainer: Explainer) -> _Known:
        """Make raw maps of a method, and of all others that can be fed by the same replays."""
        together = [explainer]
        settings = [explainer.raw_settings(self.trajectory)]
        replayed = explainer.replay_settings(self.trajectory)
        for other in self.explainers if replayed is not None else ():
            own = other.raw_settings(self.trajectory)
            if other.replay_settings(self.trajectory) == replayed and own not in settings:
                together.append(other)
                settings.append(own)
        began = time.perf_counter()
        made = explainer.probe_run_for(
            together, self.inputs, self.trajectory, self.targets, pictures=self.pictures
        )
        shared = time.perf_counter() - began - sum(each.seconds for each in made)
        found = [
            _Known(own, probed, shared + probed.seconds) for own, probed in zip(settings, made, strict=True)
        ]
        self._known.extend(found)
        return found[0]
