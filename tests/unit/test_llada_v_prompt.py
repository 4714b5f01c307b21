"""Prompts of the LLaVA-style families: the template, and the pictures' places in it."""

from __future__ import annotations

import pytest
from support.llada_v import word_tokenizer

from dcam_adapters.common.prompt import CHATML, IMAGE_PLACEHOLDER_ID, SYSTEM, chat, stop_sequences, tokenise
from dcam_core.errors import CheckpointError, UsageError

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


def test_places_of_several_pictures():
    tokenizer = word_tokenizer()
    assert "\n\n<image> <image>\nwhat ?" in chat(tokenizer, "what ?", pictures=2)
    assert "\n\n<image> red <image> ?" in chat(tokenizer, "<image> red <image> ?", pictures=2)
    with pytest.raises(UsageError, match=r"1 places for a picture \(<image>\), and 2 pictures are given"):
        chat(tokenizer, "is this <image> red ?", pictures=2)


def test_dreams_messages():
    assert chat(word_tokenizer(), "what ?", CHATML) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<image>\nwhat ?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


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
    end = (tokenizer.convert_tokens_to_ids("<|eot_id|>"),)
    assert stop_sequences(tokenizer, ("<|eot_id|>",), family="LLaDA-V") == (end,)
    # Only the token that ends a message must be there.
    assert stop_sequences(tokenizer, ("<|eot_id|>", "<|absent|>"), family="LLaDA-V") == (end,)
    begin = (tokenizer.convert_tokens_to_ids("<|startoftext|>"),)
    assert stop_sequences(tokenizer, ("<|eot_id|>", "<|startoftext|>"), family="LLaDA-V") == (end, begin)
    assert stop_sequences(None, ("<|eot_id|>",), family="LLaDA-V") == ()


def test_a_tokenizer_without_the_stop_token_is_another_models():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    )
    with pytest.raises(CheckpointError, match=r"no '<\|eot_id\|>' token"):
        stop_sequences(other, ("<|eot_id|>",), family="LLaDA-V")
