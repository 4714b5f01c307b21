"""What is asked about an answer: which of its words are explained, and whether other words stand in place of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dcam_core.denoising.given import given_trajectory
from dcam_core.probing.replacing import replaced
from dcam_core.probing.targets import Answer, Target, all_words, read_answer, select_targets

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.results.reliance import VisualReliance

__all__ = ["Asked", "ask"]


@dataclass(frozen=True, eq=False)
class Asked:
    """Words of an answer that are to be explained.

    Attributes:
        trajectory: the run that wrote the answer, or the answer as it was given.
        answer: the same as words.
        targets: which of them.
        recorded: what tells this answer from one of the model's own, as it is kept with the settings of an
            explanation: `given_answer`; `why_not`, `in_place_of` and `said`. Empty: nothing does.
    """

    trajectory: Trajectory
    answer: Answer
    targets: tuple[Target, ...]
    recorded: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> tuple[Target, ...]:
        """Every word of the answer, then targets that are no single word: what visual reliance is measured of."""
        return tuple(dict.fromkeys((*all_words(self.answer), *self.targets)))

    def grounded_in(self, reliance: VisualReliance) -> Asked:
        """The same with those of the targets alone that depend on the picture; there may be none."""
        places = {item.positions for item in reliance.grounded}
        return replace(self, targets=tuple(target for target in self.targets if target.positions in places))


def ask(
    adapter: Adapter,
    trajectory: Trajectory,
    targets: Iterable[str | int] | None,
    settings: SamplerSettings,
    *,
    given: bool = False,
    why_not: str | None = None,
) -> Asked:
    """Find in an answer what the user asks for.

    Args:
        adapter: the model that wrote or was given the answer.
        trajectory: the recorded run, or the given answer.
        targets: as in `Explainer.explain`; None: every word, until it is known which are grounded.
        settings: of the sampler, for an answer in which other words stand.
        given: whether the answer was given and not denoised.
        why_not: words that stand in the place of the one target: the answer that is explained is then the given one
            with them in it.

    Raises:
        TargetError: a target is not in the answer, or `why_not` does not take the place of one word.
        UsageError: the model cannot read the words of `why_not`.
    """
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    recorded = {"given_answer": answer.text} if given else {}
    if why_not is None:
        chosen = select_targets(answer, None if targets == "all" else targets)
        return Asked(trajectory, answer, chosen, recorded)
    change = replaced(answer, select_targets(answer, targets or ()), why_not)
    recorded |= {"why_not": why_not, "in_place_of": change.said, "said": answer.text}
    trajectory = given_trajectory(adapter, change.text, settings)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    return Asked(trajectory, answer, (change.target(answer),), recorded)
