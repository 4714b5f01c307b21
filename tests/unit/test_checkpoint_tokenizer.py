"""Tokenizers from the files that checkpoints bring, without their code."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_core.errors import CheckpointError

TEXT = "<|im_start|>the red circle is left of 12 blue stars, isn't it?<|mask|>\n\n"


@pytest.fixture
def byte_pairs():
    """A small tokenizer that merges bytes, as Qwen2's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return tokenizer


def test_without_files_there_is_no_tokenizer(tmp_path):
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None, "a vocabulary without merges is none either"


def test_vocabulary_and_merges_make_a_tokenizer_where_its_class_needs_code(tmp_path, byte_pairs):
    byte_pairs.model.save(str(tmp_path))
    size = byte_pairs.get_vocab_size()
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}
    added = {
        str(size + i): {"content": token, **flags} for i, token in enumerate(("<|im_start|>", "<|mask|>"))
    }
    settings = {
        "tokenizer_class": "OtherTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_other.OtherTokenizer", None]},
        "added_tokens_decoder": added,
        "mask_token": "<|mask|>",
        "chat_template": "{{ messages[0]['content'] }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert (ids[0], tokenizer.mask_token_id) == (size, size + 1)
    assert tokenizer("the red", add_special_tokens=False)["input_ids"] == byte_pairs.encode("the red").ids
    assert tokenizer.chat_template == settings["chat_template"]


def test_tokenizer_json_comes_first(tmp_path, byte_pairs):
    byte_pairs.model.save(str(tmp_path))
    byte_pairs.save(str(tmp_path / "tokenizer.json"))
    assert type(load_tokenizer(tmp_path)) is PreTrainedTokenizerFast


@pytest.mark.parametrize("files", [("tokenizer.json",), ("vocab.json", "merges.txt")])
def test_files_that_cannot_be_read(tmp_path, files):
    for file in files:
        (tmp_path / file).write_text("{")
    with pytest.raises(CheckpointError, match=rf"{files[0]} cannot be read .* download it anew"):
        load_tokenizer(tmp_path)
