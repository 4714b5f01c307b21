"""Words of the answer, and how they are asked for."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dcam_core.errors import TargetError
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_tokenizer

TOKENIZER = toy_tokenizer()


def _answer(text: str):
    return read_answer(torch.tensor(TOKENIZER(text)["input_ids"]), TOKENIZER)


ANSWER = _answer("a red circle , a blue star and a red moon")


def _bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token: the hardest sub-tokens there are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def test_words_are_in_reading_order():
    assert [word.text for word in ANSWER.words] == "a red circle , a blue star and a red moon".split()
    assert [word.positions for word in ANSWER.words] == [(i,) for i in range(11)]
    assert all(ANSWER.text[word.start : word.stop] == word.text for word in ANSWER.words)


def test_all_words_leave_punctuation_out():
    assert "," not in [target.word for target in select_targets(ANSWER, None)]


@pytest.mark.parametrize(
    ("wanted", "positions"),
    [
        ("circle", [(2,)]),
        ("CIRCLE", [(2,)]),
        ("red", [(1,), (9,)]),
        ("red#2", [(9,)]),
        ("red circle", [(1, 2)]),
        ("circle, a", [(2, 3, 4)]),
        (6, [(6,)]),
        ("@6", [(6,)]),
        (["star", "blue"], [(6,), (5,)]),
    ],
)
def test_ways_to_ask(wanted, positions):
    assert [target.positions for target in select_targets(ANSWER, wanted)] == positions


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("square", "its words are a, red, circle, ,, blue, star, and, moon"),
        ("red#3", r"occurs 2 time\(s\)"),
        ("red#0", "counted from #1"),
        (11, "it has 11 tokens"),
        ("@99", "it has 11 tokens"),
        ("  ", "is not in the answer"),
    ],
)
def test_wrong_wishes_say_what_there_is(wanted, message):
    with pytest.raises(TargetError, match=message):
        select_targets(ANSWER, wanted)


def test_an_answer_without_words():
    with pytest.raises(TargetError, match="no words to explain"):
        select_targets(_answer(", ,"), None)


@pytest.mark.parametrize("text", ["a crème brûlée", "红色圆 circle", "well-known, don't"])
def test_sub_tokens_are_grouped_by_the_tokenizer(text):
    tokenizer = _bytes_tokenizer()
    answer = read_answer(torch.tensor(tokenizer(text)["input_ids"]), tokenizer)
    assert answer.text == text
    for word in answer.words:
        ids = [answer.token_ids[position] for position in word.positions]
        # The bytes of a word decode to the word, alone or with the space that is written before it.
        assert tokenizer.decode(ids).strip() == word.text
    joined = [position for word in answer.words for position in word.positions]
    assert len(joined) == len(set(joined)), "a byte belongs to one word"


def test_chinese_characters_are_words():
    tokenizer = _bytes_tokenizer()
    answer = read_answer(torch.tensor(tokenizer("红色圆 circle")["input_ids"]), tokenizer)
    assert [word.text for word in answer.words] == ["红", "色", "圆", "circle"]


def test_tokens_that_the_tokenizer_would_not_write_itself():
    """A model may split a word differently: spans then come from decoding the ids one by one."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "Ġ": 3}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    answer = read_answer(torch.tensor([0, 1, 3, 2]), fast)
    assert answer.text == "ab ab"
    assert [word.positions for word in answer.words] == [(0, 1), (3,)]


def test_special_tokens_are_no_words():
    ids = TOKENIZER("red circle")["input_ids"]
    answer = read_answer(torch.tensor([ids[0], 0, ids[1]]), TOKENIZER)
    assert [word.positions for word in answer.words] == [(0,), (2,)]


def test_without_tokenizer_ids_are_words():
    answer = read_answer(torch.tensor([14, 3]), None)
    assert [word.text for word in answer.words] == ["14", "3"]
    assert select_targets(answer, "14")[0].positions == (0,)
