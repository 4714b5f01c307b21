"""Which of the explained targets a person means: "circle", "circle#2", or an index.

The spelling is that of `dcam_core.probing.targets`: "#2" is the second occurrence in the answer, counted from 1,
whether or not the first was explained as well. What was explained as "circle#2" is found as "circle#2".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dcam_core.errors import TargetError

if TYPE_CHECKING:
    from dcam_core.results.explanation import ExplainedTarget, Explanation

__all__ = ["find_target", "target_label"]


def find_target(explanation: Explanation, wanted: str | int, occurrence: int | None = None) -> int:
    """Find a target.

    Args:
        explanation: where to look.
        wanted: a target's word, its n-th occurrence in the answer ("circle#2"), or an index into `targets`.
            Letter case does not matter.
        occurrence: the n of "#n", given apart.

    Returns:
        Index into `explanation.targets`.

    Raises:
        TargetError: if there is no such target, or it is not clear which is meant; the targets are listed.
    """
    targets = explanation.targets
    if isinstance(wanted, int):
        if not -len(targets) <= wanted < len(targets):
            raise TargetError(f"there is no target {wanted}: the targets are {_listed(explanation)}")
        return wanted % len(targets)
    found = _written(targets, wanted)
    if not found and (match := re.fullmatch(r"(.*\S)#(\d+)", wanted)):
        found, occurrence = _written(targets, match.group(1)), int(match.group(2))
    if not found:
        raise TargetError(f"{wanted!r} was not explained: the targets are {_listed(explanation)}")
    if occurrence is not None:
        exact = [i for i in found if _occurrence(explanation, i) == occurrence]
        if not exact:
            raise TargetError(
                f"occurrence {occurrence} of {targets[found[0]].word!r} was not explained: occurrences are "
                f"counted from 1, the targets are {_listed(explanation, found)}"
            )
        return exact[0]
    if len({targets[i].positions for i in found}) > 1:
        raise TargetError(f"{wanted!r} is not clear, say which is meant: {_listed(explanation, found)}")
    return found[0]


def target_label(explanation: Explanation, index: int) -> str:
    """Give the name by which `find_target` finds a target: its word, with "#n" if other targets share it."""
    target = explanation.targets[index]
    same = _written(explanation.targets, target.word)
    if len({explanation.targets[i].positions for i in same}) == 1:
        return target.word
    return f"{target.word}#{_occurrence(explanation, index)}"


def _written(targets: tuple[ExplainedTarget, ...], word: str) -> list[int]:
    """Indices of the targets written so, letter case ignored."""
    return [i for i, target in enumerate(targets) if target.word.casefold() == word.casefold()]


def _occurrence(explanation: Explanation, index: int) -> int:
    """Which occurrence of its words in the answer a target is, from 1."""
    target, words = explanation.targets[index], explanation.words
    own = [i for i, word in enumerate(words) if set(word.positions) & set(target.positions)]
    if not own:  # a token that stands in no word: all that can be counted is the targets
        return 1 + sum(other.word == target.word for other in explanation.targets[:index])
    text = [word.text.casefold() for word in words]
    length = own[-1] - own[0] + 1
    phrase = text[own[0] : own[0] + length]
    return sum(text[i : i + length] == phrase for i in range(own[0] + 1))


def _listed(explanation: Explanation, indices: Iterable[int] | None = None) -> str:
    """Targets as they can be asked for, with index and answer position."""
    chosen = range(len(explanation.targets)) if indices is None else indices
    return ", ".join(
        f"{target_label(explanation, i)!r} (index {i}, answer position {explanation.targets[i].positions[0]})"
        for i in chosen
    )
