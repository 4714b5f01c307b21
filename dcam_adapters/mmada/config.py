"""The fields of MMaDA's `config.json`, and what the published file leaves unsaid (spec, sections 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dcam_adapters.common.config_fields import config_values, refuse
from dcam_adapters.common.olmo import OlmoConfig
from dcam_core.errors import CheckpointError

__all__ = ["FAMILY", "MMaDAConfig", "SpecialIds"]

FAMILY = "MMaDA"

IMAGE_TOKEN_OFFSET = 126349
"""Length of the published tokenizer, which upstream never writes down: image codes begin behind its ids."""


@dataclass(frozen=True)
class SpecialIds:
    """The tokens around the picture. They are ids only: the published tokenizer does not know their names.

    Attributes:
        mmu: `<|mmu|>`, the task "multimodal understanding".
        soi: `<|soi|>`, start of image.
        eoi: `<|eoi|>`, end of image.
    """

    mmu: int = 126089
    soi: int = 126084
    eoi: int = 126085


def _published_language() -> OlmoConfig:
    return OlmoConfig(vocab_size=134656, mlp_hidden_size=12288)


@dataclass(frozen=True)
class MMaDAConfig:
    """MMaDA's configuration; the defaults are the published 8B model's.

    Attributes:
        language: dimensions of the language model.
        codebook_size: number of image codes.
        num_vq_tokens: image tokens N of one picture, a square number.
        mask_token_id: id of `<|mdm_mask|>`, for text and image positions alike.
        image_token_offset: id of image code 0. None: the length of the tokenizer; without one the published
            value where it fits the vocabulary.
        special_ids: the tokens around the picture; None if the published ids do not fit the vocabulary and
            config.json names no others: prompts can then be given as whole sequences of ids only.
    """

    language: OlmoConfig = field(default_factory=_published_language)
    codebook_size: int = 8192
    num_vq_tokens: int = 1024
    mask_token_id: int = 126336
    image_token_offset: int | None = None
    special_ids: SpecialIds | None = SpecialIds()

    @property
    def cells(self) -> int:
        """Image tokens per side of the square."""
        return math.isqrt(self.num_vq_tokens)

    def offset(self, tokenizer_length: int | None) -> int | None:
        """Id of image code 0, or None if nothing tells it.

        Args:
            tokenizer_length: number of tokens of the tokenizer; None without one.

        Raises:
            CheckpointError: the codes would not fit behind it.
        """
        rows = self.language.rows
        told = self.image_token_offset if self.image_token_offset is not None else tokenizer_length
        if told is None:
            return IMAGE_TOKEN_OFFSET if IMAGE_TOKEN_OFFSET + self.codebook_size <= rows else None
        if told + self.codebook_size > rows:
            raise CheckpointError(
                f"{self.codebook_size} image codes (codebook_size) behind {told} other tokens need "
                f"{told + self.codebook_size} ids, and the model has {rows}: tokenizer, config.json and weights "
                "do not belong together; image_token_offset in config.json overrules the tokenizer's length"
            )
        return told

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; unknown fields are ignored.

        Two fields are dcam's own, for models whose ids are not the published ones: `image_token_offset`, and
        `special_token_ids` with the entries "<|mmu|>", "<|soi|>" and "<|eoi|>".

        Raises:
            CheckpointError: the file is not MMaDA's, a field that decides the model's shape is missing, or a
                field asks for something that this family does not do.
        """
        if values.get("codebook_size") is None:
            raise CheckpointError(
                "config.json lacks codebook_size, so the model knows no image codes: with architectures "
                f"{values.get('architectures')} and model_type {values.get('model_type')!r} it is not {FAMILY}'s, "
                "but a text-only LLaDA or of another family; load it with that family's adapter"
            )
        language = OlmoConfig.from_dict(values, family=FAMILY)
        known = ("codebook_size", "num_vq_tokens", "mask_token_id", "image_token_offset")
        config = cls(
            language=language,
            special_ids=_special_ids(values.get("special_token_ids"), language.rows),
            **{name: int(values[name]) for name in known if values.get(name) is not None},
        )
        if config.cells**2 != config.num_vq_tokens or config.cells == 0:
            refuse("num_vq_tokens", config.num_vq_tokens, "square numbers", family=FAMILY)
        if not 0 <= config.mask_token_id < language.rows:
            offered = f"ids below {language.rows}, the model's embeddings"
            refuse("mask_token_id", config.mask_token_id, offered, family=FAMILY)
        return config

    @classmethod
    def of(cls, source: Any) -> Self:
        """Reads a configuration of any make: ours, a dictionary, or an object such as transformers'.

        Raises:
            CheckpointError: there is none, or as `from_dict` says.
        """
        return source if isinstance(source, cls) else cls.from_dict(config_values(source))


def _special_ids(named: Mapping[str, int] | None, rows: int) -> SpecialIds | None:
    """The ids that config.json names, the published ones, or None if those do not fit."""
    given = {name: (named or {}).get(f"<|{name}|>") for name in ("mmu", "soi", "eoi")}
    ids = SpecialIds(**{name: int(value) for name, value in given.items() if value is not None})
    if all(0 <= value < rows for value in vars(ids).values()):
        return ids
    if named:
        refuse("special_token_ids", named, f'"<|mmu|>", "<|soi|>" and "<|eoi|>" below {rows}', family=FAMILY)
    return None
