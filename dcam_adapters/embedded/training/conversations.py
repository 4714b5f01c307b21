"""What is said about scenes in training: the vocabulary, the tokenizer, prompts and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["DESCRIBE", "KINDS", "Conversations", "build_tokenizer"]

DESCRIBE: Final = (
    "describe the picture",
    "describe the picture .",
    "describe the image",
    "describe this picture",
    "describe the scene",
    "what is in the picture ?",
    "what do you see ?",
)
"""Ways to ask for the list caption; the first is the usual one."""

NUMBERS = ("one", "two", "three", "four")

SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
"""The family's special tokens that a tiny vocabulary needs."""

UNKNOWN = "<unk>"

# The published template without its system message, which would cost this model forty tokens.
CHAT_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

FUNCTION_WORDS = (
    "a an the this and , ? . is are there what which how many objects object in picture image scene describe do you "
    "see colour color "
    "yes no user assistant"
).split()


def build_tokenizer(shapes: Sequence[str], colours: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower case, words and punctuation apart, unknown words as `<unk>`."""
    words = [*SPECIAL, UNKNOWN, *FUNCTION_WORDS, *NUMBERS, *colours, *shapes]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",  # noqa: S106
        eos_token="<|endoftext|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        unk_token=UNKNOWN,
        mask_token="<|mdm_mask|>",  # noqa: S106
        additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


Objects = Sequence[tuple[str, str]]
"""(shape, colour) of the objects of a scene, from left to right."""


@dataclass(frozen=True)
class Conversations:
    """Draws prompts, and knows their answers.

    Attributes:
        shapes: all shape words.
        colours: all colour words.
    """

    shapes: Sequence[str]
    colours: Sequence[str]

    def describe(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """The list caption: every object, from left to right."""
        phrases = [f"{_article(colour)} {colour} {shape}" for shape, colour in objects]
        answer = phrases[0] if len(phrases) == 1 else " , ".join(phrases[:-1]) + " and " + phrases[-1]
        return DESCRIBE[0], answer

    def describe_otherwise(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """The list caption, asked for in other words."""
        return DESCRIBE[random.integers(1, len(DESCRIBE))], self.describe(objects, random)[1]

    def what_colour(self, objects: Objects, random: np.random.Generator) -> tuple[str, str] | None:
        """The colour of a shape that occurs once."""
        shapes = [shape for shape, _ in objects]
        once = [(shape, colour) for shape, colour in objects if shapes.count(shape) == 1]
        if not once:
            return None
        shape, colour = once[random.integers(len(once))]
        return f"what colour is the {shape} ?", colour

    def what_object(self, objects: Objects, random: np.random.Generator) -> tuple[str, str] | None:
        """The shape of a colour that occurs once."""
        colours = [colour for _, colour in objects]
        once = [(shape, colour) for shape, colour in objects if colours.count(colour) == 1]
        if not once:
            return None
        shape, colour = once[random.integers(len(once))]
        return f"what object is {colour} ?", shape

    def is_there(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """Whether a shape is in the picture: as often yes as no."""
        there = sorted({shape for shape, _ in objects})
        if random.random() < 0.5:
            shape = there[random.integers(len(there))]
            return f"is there {_article(shape)} {shape} ?", "yes"
        absent = [shape for shape in self.shapes if shape not in there]
        shape = absent[random.integers(len(absent))]
        return f"is there {_article(shape)} {shape} ?", "no"

    def how_many(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """The number of objects."""
        return "how many objects are there ?", NUMBERS[len(objects) - 1]

    def caption(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """The list caption, every second time asked for as usual."""
        return (self.describe if random.random() < 0.5 else self.describe_otherwise)(objects, random)

    def question(self, objects: Objects, random: np.random.Generator) -> tuple[str, str]:
        """A short question of a random kind."""
        draw = random.random()
        if draw < 0.35 and (asked := self.what_colour(objects, random)):
            return asked
        if draw < 0.55 and (asked := self.what_object(objects, random)):
            return asked
        return self.is_there(objects, random) if draw < 0.8 else self.how_many(objects, random)


KINDS = ("describe", "describe_otherwise", "what_colour", "what_object", "is_there", "how_many")
"""Kinds of prompt, names of `Conversations`' methods."""


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
