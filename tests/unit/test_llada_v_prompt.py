"""LLaDA-V's prompt: the template, and the picture's place in it."""

from __future__ import annotations

import pytest
from support.llada_v import word_tokenizer

from dcam_adapters.llada_v.prompt import IMAGE_PLACEHOLDER_ID, SYSTEM, chat, stop_sequences, tokenise
from dcam_core.errors import CheckpointError

TEMPLATE = (
    "{% for message in messages if message.role != 'system' %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>{{ message.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)


def test_the_published_prompt():
    assert chat(word_tokenizer(), " what is this ? ") == (
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\n"
        f"{SYSTEM}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n what is this ?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_tokenizers_own_template_comes_first():
    assert chat(word_tokenizer(chat_template=TEMPLATE), "what ?") == (
        "<|start_header_id|>user<|end_header_id|><image>\nwhat ?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>"
    )


def test_a_prompt_may_say_where_the_picture_goes():
    assert "\n\nis this <image> red ?<|eot_id|>" in chat(word_tokenizer(), "is this <image> red ?")


def words(tokenizer, ids):
    return [
        "IMAGE" if token == IMAGE_PLACEHOLDER_ID else tokenizer.convert_ids_to_tokens(token) for token in ids
    ]


def test_pieces_are_tokenised_by_themselves():
    tokenizer = word_tokenizer()
    ids = tokenise(tokenizer, "<|startoftext|>a red<image>\nwhat ?")
    assert words(tokenizer, ids) == ["<|startoftext|>", "a", "red", "IMAGE", "\n", "what", "?"]


def test_dropping_the_first_token_after_the_picture_as_upstream():
    tokenizer = word_tokenizer()
    ids = tokenise(tokenizer, "a<image>\nwhat<image>is ?", drop_first_token_after_image=True)
    assert words(tokenizer, ids) == ["a", "IMAGE", "what", "IMAGE", "?"]


def test_a_tokenizer_that_prepends_bos_does_not_do_so_twice():
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("<|startoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A", special_tokens=[("<|startoftext|>", bos)]
    )
    assert tokenizer("a")["input_ids"][0] == bos
    assert tokenise(tokenizer, "<|startoftext|>a<image>red").count(bos) == 1


def test_answers_stop_at_the_end_of_the_turn():
    tokenizer = word_tokenizer()
    assert stop_sequences(tokenizer) == ((tokenizer.convert_tokens_to_ids("<|eot_id|>"),),)
    assert stop_sequences(None) == ()


def test_a_tokenizer_without_the_stop_token_is_another_models():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    )
    with pytest.raises(CheckpointError, match=r"no '<\|eot_id\|>' token"):
        stop_sequences(other)
