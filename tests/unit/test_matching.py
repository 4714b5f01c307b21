"""Words that name objects: whole names first, synonyms, plurals, and what only looks like a name."""

from __future__ import annotations

import pytest
import torch

from dcam_core.dataset import SampleObject
from dcam_core.errors import UsageError
from dcam_core.matching import LastMatchMatcher, NameMatcher, noun_lemma, target_mask
from dcam_core.word_classes import WordClass, bare_word, word_class
from dcam_plugins.datasets.names import COCO_SYNONYMS, LABELS

COCO = [(name, *COCO_SYNONYMS.get(name, ())) for name in LABELS.values()]


def thing(*words, at=0):
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, at] = True
    return SampleObject(words, mask)


def named(matcher, text, objects=()):
    """Word -> the name it stands for, of the words that stand for one."""
    words = text.split()
    matches = matcher.match(words, objects)
    assert len(matches) == len(words)
    return {word: match.names[0] for word, match in zip(words, matches, strict=True) if match}


# -- ours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog on a couch", {"dog": "dog", "couch": "couch"}),
        ("Two Dogs, and a CAT.", {"Dogs,": "dog", "CAT.": "cat"}),
        ("three hot dogs", {"hot": "hot dog", "dogs": "hot dog"}),
        ("a hotdog and a hot-dog", {"hotdog": "hotdog", "hot-dog": "hot dog"}),
        ("a hot day", {}),
        ("a dog eats a hot dog", {"hot": "hot dog", "dog": "hot dog"}),
        ("a teddy bear", {"teddy": "teddy bear", "bear": "teddy bear"}),
        ("a brown bear", {"bear": "bear"}),
        ("the man's bike", {"man's": "man", "bike": "bike"}),
        ("women and children", {"women": "woman", "children": "child"}),
        ("people ride skis while skiing", {"people": "people", "skis": "skis"}),
        ("a sofa and TVs", {"sofa": "sofa", "TVs": "tv"}),
        ("knives, scissors, sheep", {"knives,": "knife", "scissors,": "scissors", "sheep": "sheep"}),
        (
            "a red light, a street sign, a plant and a fire hydrant",
            {"fire": "fire hydrant", "hydrant": "fire hydrant"},
        ),
        ("she lit a fire", {}),
        ("a racquet or racket", {"racquet": "racquet", "racket": "racket"}),
        ("dining room tables", {"tables": "table"}),
        ("fire , hydrant", {"hydrant": "fire hydrant"}),
        ("nothing to see here", {}),
        ("", {}),
    ],
)
def test_words_of_captions(text, expected):
    # A caption has a word once, or twice with the same meaning: the dictionary keeps the last.
    assert named(NameMatcher(COCO), text) == expected


def test_the_dog_beside_the_hot_dog_is_a_dog():
    objects = [thing("dog", at=1), thing("hot dog", at=2)]
    matches = NameMatcher().match("a dog eats a hot dog".split(), objects)
    assert [match and match.objects for match in matches] == [None, (0,), None, None, (1,), (1,)]
    assert matches[4].words == (4, 5)


def test_without_a_dog_among_the_classes_a_dog_is_still_no_hot_dog():
    assert named(NameMatcher(), "a dog", [thing("hot dog")]) == {}


def test_a_class_that_the_picture_does_not_show_is_named_and_has_no_objects():
    match = NameMatcher(COCO).match(["cat"], [thing("dog")])[0]
    assert (match.names, match.objects) == (("cat",), ())
    assert target_mask(match, [thing("dog")]) is None
    assert NameMatcher().match(["cat"], [thing("dog")]) == [None]


def test_all_objects_of_a_name_are_meant_and_their_masks_united():
    objects = [thing("red circle", "circle", at=0), thing("blue circle", "circle", at=3), thing("star", at=5)]
    matches = NameMatcher().match("a blue circle and a circle".split(), objects)
    assert [match.objects for match in matches if match] == [(1,), (1,), (0, 1)]
    assert target_mask(matches[-1], objects).nonzero()[:, 1].tolist() == [0, 3]


def test_what_is_written_in_two_ways_is_one_name():
    objects = [thing("t-shirt"), thing("t shirt", "shirt"), thing("shirt")]
    found = [match and match.objects for match in NameMatcher().match("T-shirt or t shirts".split(), objects)]
    assert found == [(0, 1), None, (0, 1), (0, 1)]


def test_a_phrase_is_found_by_what_it_is_about_and_not_by_its_last_word():
    objects = [thing("man in a red shirt", "man"), thing("red circle", "circle"), thing("hot dog")]
    matches = NameMatcher().match(
        "a shirt : the man in a red shirt , a red circle and hot dogs".split(), objects
    )
    assert [index for index, match in enumerate(matches) if match] == [4, 5, 6, 7, 8, 11, 12, 14, 15]
    assert [matches[index].head for index in (4, 8, 11, 14)] == [4, 4, 12, 15]


def test_a_first_name_goes_before_another_s_synonym():
    objects = [thing("mouse", "computer mouse"), thing("rodent", "mouse")]
    # Both are called so: the picture cannot tell which one is meant.
    assert NameMatcher().match(["mouse"], objects)[0].objects == (0, 1)
    categories = [("cup", "glass"), ("glass", "tumbler")]
    assert NameMatcher(categories).match(["glass"], [thing("glass", "tumbler")])[0].objects == (0,)


def test_what_is_written_so_goes_before_what_has_the_same_singular():
    assert named(NameMatcher([("glass",), ("glasses",)]), "glasses glass") == {
        "glasses": "glasses",
        "glass": "glass",
    }


def test_rules_are_tried_in_order_and_say_which_it_was():
    every = NameMatcher(COCO, rules=("name", "head", "part"))
    matches = every.match("a dog , a racket and tennis".split(), ())
    assert [match.rule for match in matches if match] == ["name", "name", "part"]
    assert [match.names[0] for match in matches if match] == ["dog", "racket", "tennis racket"]
    plain = NameMatcher([("tennis racket",), ("baseball bat",), ("baseball glove",)], rules=("head", "part"))
    assert [match and match.rule for match in plain.match("racket tennis baseball".split(), ())] == [
        "head", "part", None
    ]  # fmt: skip
    assert named(NameMatcher(COCO), "tennis") == {}


def test_a_head_that_several_names_share_means_all_of_them():
    objects = [thing("wine glass"), thing("water glass"), thing("glass jar")]
    match = NameMatcher().match(["glasses"], objects)[0]
    assert (match.names, match.objects) == (("wine glass", "water glass"), (0, 1))


@pytest.mark.parametrize("rules", [(), "name", ("name", "best")])
def test_rules_that_are_none_are_refused(rules):
    with pytest.raises(UsageError, match="name, head, part"):
        NameMatcher(rules=rules)


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("dogs", "dog"), ("buses", "bus"), ("bus", "bus"), ("tennis", "tennis"), ("glass", "glass"),
        ("women", "woman"), ("geese", "goose"), ("leaves", "leaf"), ("shelves", "shelf"), ("tvs", "tv"),
        ("skiing", "skiing"), ("lit", "lit"), ("stood", "stood"), ("building", "building"), ("people", "people")
    ],
)  # fmt: skip
def test_singulars(word, singular):
    assert noun_lemma(word) == singular


# -- as published --------------------------------------------------------------------------------------------


def test_the_published_rule_takes_the_last_class_that_has_the_word():
    matcher = LastMatchMatcher(COCO)
    assert named(matcher, "the dogs and a bear play baseball") == {
        "dogs": "hot dog", "bear": "teddy bear", "baseball": "baseball glove"
    }  # fmt: skip
    assert named(matcher, "a man and a woman with a bike") == {}
    assert named(matcher, "a person in a Car, under a light") == {
        "person": "person", "Car,": "car", "light": "traffic light"
    }  # fmt: skip


def test_the_published_rule_finds_its_objects_by_their_first_name():
    objects = [thing("dog", "puppy"), thing("hot dog", "dog")]
    match = LastMatchMatcher(COCO).match(["dog"], objects)[0]
    assert (match.names, match.rule, match.objects) == (("hot dog",), "part", (1,))


# -- classes of words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            WordClass.FUNCTION,
            "and the The a an this there can must it its he her , what who where yes 's It's",
        ),
        (WordClass.NEITHER, "in on of with to two 42 3.5 is are was not don't , . ..."),
        (WordClass.CONTENT, "dog red stands quickly tv t-shirt 2nd"),
    ],
)
def test_classes_of_words(kind, words):
    wrong = [word for word in words.split() if word != "," and word_class(word) is not kind]
    assert wrong == []
    assert word_class(",") is WordClass.NEITHER


def test_a_bare_word():
    assert [bare_word(word) for word in (" Dog's,", "boys'", "(t-shirt)", "\u2026", "man\u2019s", "don't")] == [
        "dog", "boys", "t-shirt", "", "man", "don't"
    ]  # fmt: skip
