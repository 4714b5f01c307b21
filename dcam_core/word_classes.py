"""Content words, function words, and words that are counted as neither: a closed list, so that nothing is loaded."""

from __future__ import annotations

import re
from enum import Enum

__all__ = ["WordClass", "bare_word", "word_class"]


class WordClass(Enum):
    """What a word does in an English sentence."""

    CONTENT = "content"
    """It may name a thing: everything that is in neither list, hence also verbs and adjectives."""
    FUNCTION = "function"
    """It stands for nothing to be seen, and its map should stay cold."""
    NEITHER = "neither"
    """Prepositions, numbers and auxiliary verbs, which say something of the picture; and punctuation."""


_FUNCTION = frozenset(
    # Conjunctions, determiners and predeterminers, existential "there".
    "and or but nor yet plus a an the this that these those each every either neither another any some all both no "
    "half such there "
    # Modal verbs.
    "can could may might must shall should will would ought "
    # Personal, possessive and reflexive pronouns.
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself "
    "we us our ours ourselves they them their theirs themselves "
    # Question words and relative pronouns.
    "who whom whose which what whatever whichever whoever where when why how whenever wherever "
    # Interjections.
    "oh ah hey hello hi yes please wow well ok okay "
    # What is left of shortened forms where a tokenizer splits them off.
    "'s s".split()
)

_NEITHER = frozenset(
    # Prepositions and subordinating conjunctions.
    "about above across after against along alongside amid among around as at atop because before behind below "
    "beneath beside besides between beyond by despite down during except for from if in inside into like near of "
    "off on onto out outside over past since than though although through throughout till to toward towards under "
    "underneath unless until up upon via while with within without "
    # Numbers.
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen "
    # Auxiliary verbs and negation.
    "be am is are was were been being have has had having do does did done doing not n't".split()
)

_EDGES = re.compile(r"^[^\w']+|[^\w']+$")
_POSSESSIVE = re.compile(r"(?<=\w)['\u2019]s?$")


def bare_word(word: str) -> str:
    """A word in lower case, without blanks and punctuation around it and without a possessive: `Dog's,` is `dog`.

    Args:
        word: as it stands in a text.

    Returns:
        The word; empty where there is no letter and no digit.
    """
    bare = _POSSESSIVE.sub("", _EDGES.sub("", word.strip()).lower().replace("\u2019", "'"))
    return bare if any(letter.isalnum() for letter in bare) else ""


def word_class(word: str) -> WordClass:
    """The class of a word on its own.

    The published protocol (TAM) tags the isolated word and calls CC, DT, EX, MD, POS, PRP, PRP$, UH, WDT, WP, WP$
    and WRB function words; prepositions (IN) and numbers (CD) are left out on purpose. All of these are closed
    classes, so a list does what the tagger does, and does it the same on every machine. Auxiliary verbs are tagged
    as verbs there, which are neither nouns nor function words.

    Args:
        word: as it stands in a text; case and punctuation around it do not matter.

    Returns:
        Its class; of words that have several ("that", "like") the commonest.
    """
    bare = bare_word(word)
    if bare in _FUNCTION or word.strip().lower() in _FUNCTION:
        return WordClass.FUNCTION
    if (
        not bare
        or bare in _NEITHER
        or bare.endswith("n't")
        or bare.replace(".", "").replace(",", "").isdigit()
    ):
        return WordClass.NEITHER
    return WordClass.CONTENT
