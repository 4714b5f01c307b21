"""MMaDA's prompt: the template, and the sequence of the understanding task."""

from __future__ import annotations

import logging

import pytest
import torch
from support.mmada import word_tokenizer

from dcam_adapters.mmada.config import SpecialIds
from dcam_adapters.mmada.prompt import chat, tokenise, whole_prompt
from dcam_core.errors import UsageError

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DEMONSTRATION = (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\nwhat is this ?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n"
)
SPECIAL = SpecialIds(mmu=50, soi=51, eoi=52)
CODES = torch.tensor([1, 0, 3, 2])


def test_the_tokenizers_own_template_comes_first():
    tokenizer = word_tokenizer(chat_template=TEMPLATE)
    assert chat(tokenizer, " what is this ? ") == DEMONSTRATION.replace("\n", "\n\n")
    assert chat(tokenizer, " what is this ? ", single_newline=True) == DEMONSTRATION


def test_without_a_template_it_is_the_demonstrations():
    assert chat(word_tokenizer(), "what is this ?") == DEMONSTRATION


def test_a_prompt_cannot_say_where_the_picture_goes():
    with pytest.raises(UsageError, match=r"'<image>'.*before the text; leave it out"):
        chat(word_tokenizer(), "<image>\nwhat is this ?")


def test_text_is_tokenised_with_exactly_one_bos():
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("<|startoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A", special_tokens=[("<|startoftext|>", bos)]
    )
    ids = tokenise(tokenizer, DEMONSTRATION)
    assert ids.dtype == torch.int64
    assert ids.tolist().count(bos) == 1
    assert tokenizer.convert_ids_to_tokens(ids[:5].tolist()) == [
        *("<|startoftext|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n")
    ]


def test_text_is_completed_by_picture_and_markers():
    whole = whole_prompt(torch.tensor([1, 7, 8]), CODES, SPECIAL, 60)
    assert whole.tolist() == [50, 51, 61, 60, 63, 62, 52, 1, 7, 8]


@pytest.mark.parametrize("offset", [60, None])
@pytest.mark.parametrize("special", [SPECIAL, None])
def test_whole_prompts_stay_as_they_are(special, offset):
    ids = torch.tensor([50, 51, 61, 60, 63, 62, 52, 1, 7, 8])
    assert whole_prompt(ids, CODES, special, offset) is ids


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([50, 51, 60, 61, 62, 52, 1], r"\[50, 51, 1\]"),  # three image ids
        ([1, 50, 51, 60, 61, 62, 63, 52], r"\[1, 50, 63\]"),  # text first
        ([50], r"\[50\]"),
    ],
)
def test_what_is_neither_text_nor_prompt(ids, found):
    with pytest.raises(UsageError, match=rf"no understanding prompt.*found {found} at positions 0, 1 and 6"):
        whole_prompt(torch.tensor(ids), CODES, SPECIAL, 60)


def test_text_alone_needs_to_know_the_other_ids():
    with pytest.raises(
        UsageError, match=r"6 ids cannot be a whole prompt with 4 image ids.*special_token_ids"
    ):
        whole_prompt(torch.arange(6), CODES, None, 60)
    with pytest.raises(UsageError, match=r"nothing tells the ids of image codes.*image_token_offset"):
        whole_prompt(torch.arange(6), CODES, SPECIAL, None)


def test_few_wrong_image_ids_are_told(caplog):
    ids = torch.tensor([50, 51, 61, 60, 63, 60, 52, 1])
    with caplog.at_level(logging.WARNING, "dcam"):
        assert whole_prompt(ids, CODES, SPECIAL, None) is ids
    assert "1 of the prompt's 4 image ids are not those that the picture has here" in caplog.text


@pytest.mark.parametrize(("offset", "agreed", "told"), [(None, 1, "unknown"), (60, 0, "60")])
def test_many_wrong_image_ids_are_refused(offset, agreed, told):
    ids = torch.tensor([50, 51, 60, 65, 64, 70, 52, 1])
    refusal = rf"only {agreed} of the prompt's 4 image ids.*begin at id {told}\).*give the text's ids alone"
    with pytest.raises(UsageError, match=refusal):
        whole_prompt(ids, CODES, SPECIAL, offset)
