"""Another word in the place of one that the model said: why not *dog*?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcam_core.errors import TargetError
from dcam_core.probing.targets import Answer, Target, phrase, select_targets, split_words

__all__ = ["Replacement", "replaced"]


@dataclass(frozen=True)
class Replacement:
    """An answer in which other words stand in the place of some.

    Attributes:
        text: the answer with the new words.
        said: what stood in their place.
        first: index of the first of them among its words.
        count: how many they are.
    """

    text: str
    said: str
    first: int
    count: int

    def target(self, answer: Answer) -> Target:
        """The new words in the answer as the model's tokenizer has read it: as many tokens as it takes."""
        return phrase(answer, answer.words[self.first : self.first + self.count])


def replaced(answer: Answer, targets: Sequence[Target], words: str) -> Replacement:
    """Put other words in the place of a target; the rest of the answer stays.

    Args:
        answer: what the model said.
        targets: what is to be replaced: one word or phrase.
        words: what stands there instead.

    Raises:
        TargetError: there is not exactly one target, it is no whole word, or the new words are none.
    """
    there = ", ".join(dict.fromkeys(word.text for word in answer.words))
    if not targets:
        raise TargetError(
            f"why_not={words!r} takes the place of one word, and the targets are none: name one of the answer, "
            f"whose words are {there}"
        )
    if len(targets) > 1:
        found = ", ".join(f"{target.word!r} at @{target.positions[0]}" for target in targets)
        names = " or ".join(dict.fromkeys(repr(_name(answer, target)) for target in targets))
        raise TargetError(
            f"why_not={words!r} takes the place of one word, and the targets are {found}: name one, {names}"
        )
    (target,) = targets
    own = [i for i, word in enumerate(answer.words) if set(word.positions) <= set(target.positions)]
    if not own or phrase(answer, [answer.words[i] for i in own]).positions != target.positions:
        raise TargetError(
            f"why_not={words!r} takes the place of whole words, and {target.word!r} is none: the words of the "
            f"answer are {there}"
        )
    count = len(split_words(words))
    if not count:
        raise TargetError(
            f"why_not={words!r} holds no word: say what should stand in place of {target.word!r}"
        )
    start, stop = answer.words[own[0]].start, answer.words[own[-1]].stop
    text = answer.text[:start] + words.strip() + answer.text[stop:]
    return Replacement(text, answer.text[start:stop], own[0], count)


def _name(answer: Answer, target: Target) -> str:
    """How this target and no other is asked for: "circle", "circle#2" where there are several, or its position."""
    try:
        same = [each.positions for each in select_targets(answer, target.word)]
    except TargetError:
        same = []
    if target.positions not in same:
        return f"@{target.positions[0]}"
    return target.word if len(same) == 1 else f"{target.word}#{same.index(target.positions) + 1}"
