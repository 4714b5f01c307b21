"""Which words of a text name which objects of a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from dcam_core.dataset import SampleObject
from dcam_core.errors import UsageError
from dcam_core.word_classes import WordClass, bare_word, word_class

__all__ = [
    "FIXED_COMPOUNDS",
    "LastMatchMatcher",
    "Match",
    "NameMatcher",
    "WordMatcher",
    "noun_lemma",
    "target_mask",
]

_IRREGULAR = MappingProxyType(
    {
        "calves": "calf",
        "elves": "elf",
        "halves": "half",
        "leaves": "leaf",
        "lenses": "lens",
        "loaves": "loaf",
        "shelves": "shelf",
        "sunglasses": "sunglasses",
        "tvs": "tv",
        "veggies": "veggie",
    }
)
"""Plurals of things that the lemmatiser's dictionary does not know, or takes for verbs: "she leaves"."""

_PLURALS_WITHOUT_S = frozenset("children feet teeth geese mice lice oxen".split())

FIXED_COMPOUNDS = frozenset(
    # What their last word says, they are not.
    {"hot dog", "prairie dog", "teddy bear", "sea horse", "sea lion", "guinea pig", "toy car", "toy train"}
    # What their last word says is mostly something else: a lamp, a signboard, any green.
    | {"traffic light", "stop sign", "potted plant"}
)
"""Names, in the singular, that their last word alone does not mean: no dog is a hot dog, few signs are stop signs."""

_Pieces: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A word of a text names something.

    Attributes:
        names: what it is called in the data, such as ("traffic light",); several where the word fits several.
        rule: how it was recognised: "name", "head" or "part".
        words: indices of the words that name it together: both words of "traffic light".
        objects: indices of the objects of the picture that are called so; none if the picture is known to show none.
        head: index of the word that says what it is: "man" of "man in a red shirt", otherwise the last, "circle" of
            "red circle".
    """

    names: tuple[str, ...]
    rule: str
    words: tuple[int, ...]
    objects: tuple[int, ...]
    head: int


def target_mask(match: Match, objects: Sequence[SampleObject]) -> Tensor | None:
    """The pixels that a matched word names.

    Args:
        match: what the word names.
        objects: the objects of the picture that it was matched with.

    Returns:
        `[H, W]` bool, the union of the masks of its objects; None if the picture shows none.
    """
    if not match.objects:
        return None
    return torch.stack([objects[index].mask for index in match.objects]).any(dim=0)


@lru_cache(maxsize=65536)
def noun_lemma(word: str) -> str:
    """The singular of a noun.

    The lemmatiser knows verbs, too, and would turn "skiing" into "ski" and "lit" into "light". Only what has the look
    of a plural is looked up, everything else stays what it is.

    Args:
        word: in lower case.

    Returns:
        Its singular, in lower case; the word itself where it is no plural.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    plural = word in _PLURALS_WITHOUT_S or word.endswith(("s", "men"))
    if not plural or len(word) < 3 or word.endswith("ss"):
        return word
    import simplemma

    return str(simplemma.lemmatize(word, lang="en")).lower()


def _lemmas(pieces: _Pieces) -> _Pieces:
    return tuple(noun_lemma(piece) for piece in pieces)


def _pieces(text: str) -> _Pieces:
    """The words of a name, or what the hyphens of a word join: `t-shirt` is `t`, `shirt`."""
    return tuple(bare for piece in text.replace("-", " ").split() if (bare := bare_word(piece)))


class WordMatcher(ABC):
    """Finds the words of a text that name an object.

    Args:
        categories: the classes that are annotated in all pictures, each with its names, as
            `ExplanationDataset.categories` gives them. Without any, names are those of each picture's objects.
    """

    def __init__(self, categories: Iterable[Sequence[str]] = ()) -> None:
        self.categories = tuple(tuple(names) for names in categories)

    @abstractmethod
    def match(self, words: Sequence[str], objects: Sequence[SampleObject]) -> list[Match | None]:
        """Match every word.

        Args:
            words: the words of a text in order, as they stand there.
            objects: the objects of the picture.

        Returns:
            One entry per word: what it names, or None.
        """

    def _called(self, objects: Sequence[SampleObject]) -> list[tuple[str, ...]]:
        """The names of all classes and of the objects at hand, each group once, classes first."""
        return list(dict.fromkeys((*self.categories, *(each.words for each in objects))))


class _Names:
    """Names by their words: as written and, behind that, in the singular. First come the first names of all."""

    def __init__(self, groups: Sequence[tuple[str, ...]]) -> None:
        self._written: dict[_Pieces, list[str]] = {}
        self._singular: dict[_Pieces, list[str]] = {}
        firsts = list(dict.fromkeys(names[0] for names in groups))
        others = dict.fromkeys(name for names in groups for name in names[1:])
        for name in (*firsts, *others):
            pieces = _pieces(name)
            self._written.setdefault(pieces, []).append(name)
            self._singular.setdefault(_lemmas(pieces), []).append(name)
        self.longest = max((len(pieces) for pieces in self._written), default=0)
        self.compounds = [(name, _lemmas(pieces)) for name in firsts if len(pieces := _pieces(name)) > 1]
        self.by_last_word = {names[0] for names in groups if _means_its_last_word(names)}

    def find(self, pieces: _Pieces) -> str | None:
        """The name that is written so, or has the same singular."""
        found = self._written.get(pieces) or self._singular.get(_lemmas(pieces))
        return found[0] if found else None


def _means_its_last_word(names: Sequence[str]) -> bool:
    """Whether the last word of a first name stands for the thing.

    Not if another word of it is known to: a "man in a red shirt" who is also called "man" is no shirt.
    """
    first, others = _pieces(names[0]), set(map(_pieces, names[1:]))
    fixed = " ".join(_lemmas(first)) in FIXED_COMPOUNDS
    return not fixed and others.isdisjoint((piece,) for piece in first[:-1])


_Found: TypeAlias = tuple[tuple[str, ...], range]
"""Names, and the pieces of the text that mean them."""


def _by_name(pieces: _Pieces, names: _Names) -> Iterator[_Found]:
    """A name from its first to its last word; the longest name wins, and "dog" in "hot dog" is used up by it."""
    start = 0
    while start < len(pieces):
        for length in range(min(names.longest, len(pieces) - start), 0, -1):
            if name := names.find(pieces[start : start + length]):
                yield (name,), range(start, start + length)
                start += length
                break
        else:
            start += 1


def _by_head(pieces: _Pieces, names: _Names) -> Iterator[_Found]:
    """The last word of a name of several: "racket" is a tennis racket. It means all names that end so."""
    heads: dict[str, list[str]] = {}
    for name, lemmas in names.compounds:
        if name in names.by_last_word:
            heads.setdefault(lemmas[-1], []).append(name)
    yield from _single(pieces, heads)


def _by_part(pieces: _Pieces, names: _Names) -> Iterator[_Found]:
    """Any other word of a name of several, if no second name has it: "tennis" is a tennis racket."""
    parts: dict[str, list[str]] = {}
    for name, lemmas in names.compounds:
        for lemma in set(lemmas[:-1]):
            parts.setdefault(lemma, []).append(name)
    yield from _single(pieces, {lemma: found for lemma, found in parts.items() if len(found) == 1})


def _single(pieces: _Pieces, names: Mapping[str, list[str]]) -> Iterator[_Found]:
    for index, lemma in enumerate(_lemmas(pieces)):
        if lemma in names and word_class(pieces[index]) is WordClass.CONTENT:
            yield tuple(names[lemma]), range(index, index + 1)


_RULES: Mapping[str, Callable[[_Pieces, _Names], Iterator[_Found]]] = MappingProxyType(
    {"name": _by_name, "head": _by_head, "part": _by_part}
)


class NameMatcher(WordMatcher):
    """Whole names first, then the last word of a name, then, if wanted, any word of a name.

    A rule sees only words that no earlier rule has used. Plurals and hyphens do not matter; "hot dogs" are a "hot
    dog", and "dog" is not. An object is meant by any of its names, so synonyms belong into its `words`.

    Args:
        categories: see `WordMatcher`.
        rules: some of "name", "head" and "part", in the order in which they are tried. The last is off by default:
            "fire" is rarely the fire hydrant.

    Raises:
        UsageError: a rule is unknown, or there is none.

    Example:
        >>> mask = torch.ones(1, 1, dtype=torch.bool)
        >>> things = [SampleObject(("hot dog",), mask), SampleObject(("person", "man"), mask)]
        >>> matches = NameMatcher([("dog",)]).match("a man with two hot dogs".split(), things)
        >>> [match and match.names[0] for match in matches]
        [None, 'man', None, None, 'hot dog', 'hot dog']
    """

    def __init__(
        self, categories: Iterable[Sequence[str]] = (), rules: Sequence[str] = ("name", "head")
    ) -> None:
        super().__init__(categories)
        if isinstance(rules, str) or not rules or set(rules) - set(_RULES):
            raise UsageError(f"rules are {rules!r}: give a list of some of {', '.join(_RULES)}")
        self.rules = tuple(rules)

    def match(self, words: Sequence[str], objects: Sequence[SampleObject]) -> list[Match | None]:
        """See `WordMatcher.match`."""
        names = _Names(self._called(objects))
        called = [set(map(_pieces, each.words)) for each in objects]
        # A word with hyphens has several pieces; a piece without letters has no place in a name and ends it.
        pieces = [(piece, index) for index, word in enumerate(words) for piece in _pieces(word) or ("",)]
        matches: list[Match | None] = [None] * len(words)
        for rule in self.rules:
            free = tuple("" if matches[index] else piece for piece, index in pieces)
            for found, span in _RULES[rule](free, names):
                where = tuple(dict.fromkeys(pieces[at][1] for at in span))
                # "t-shirt" and "t shirt" are one name, written in two ways.
                wanted = set(map(_pieces, found))
                meant = tuple(index for index, own in enumerate(called) if not wanted.isdisjoint(own))
                alone = set().union(*(called[index] for index in meant))
                head = next((at for at in reversed(span) if (pieces[at][0],) in alone), span[-1])
                match = Match(found, rule, where, meant, pieces[head][1])
                for index in where:
                    matches[index] = matches[index] or match
        return matches


class LastMatchMatcher(WordMatcher):
    """The rule of the published comparison (TAM), for parity with its numbers only.

    Every word stands alone. It names a class if its singular equals that of any single word of the class's first
    name; all classes are gone through without stopping, so that the last one wins: "dog" is the hot dog, "bear" the
    teddy bear, and "man" nobody. What is taken for a noun there by a tagger is a content word here.
    """

    def match(self, words: Sequence[str], objects: Sequence[SampleObject]) -> list[Match | None]:
        """See `WordMatcher.match`."""
        names = {
            noun_lemma(piece): group[0] for group in self._called(objects) for piece in _pieces(group[0])
        }
        matches: list[Match | None] = []
        for index, word in enumerate(words):
            lemma = noun_lemma(bare_word(word).replace("-", ""))
            name = names.get(lemma) if word_class(word) is WordClass.CONTENT else None
            found = Match((name,), "part", (index,), _first_called(name, objects), index) if name else None
            matches.append(found)
        return matches


def _first_called(name: str, objects: Sequence[SampleObject]) -> tuple[int, ...]:
    return tuple(index for index, each in enumerate(objects) if each.words[0] == name)
