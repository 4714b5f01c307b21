"""The multimodal fields of `config.json` that LLaVA-style families share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dcam_adapters.common.anyres import Crop
from dcam_adapters.common.config_fields import config_values, refuse
from dcam_adapters.common.siglip import VisionConfig

__all__ = ["LlavaConfig", "multimodal_fields"]


@dataclass(frozen=True)
class LlavaConfig(ABC):
    """What a family adds to its language model's fields; the defaults are the so400m tower's.

    Attributes:
        mask_token_id: id of the mask token; upstream hard-codes it.
        image_aspect_ratio: how a picture becomes crops: "anyres_max_N", "anyres", "pad", ...
        image_grid_pinpoints: (width, height) of every canvas the any-resolution split may choose, in
            pixels; empty means the family's default.
        tokenizer_model_max_length: longest merged prompt; upstream cuts it there; None: any length.
        vision: the tower's dimensions.
    """

    mask_token_id: int
    image_aspect_ratio: str = "anyres"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    tokenizer_model_max_length: int | None = None
    vision: VisionConfig = field(default_factory=VisionConfig)

    @classmethod
    @abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; unknown fields are ignored.

        Raises:
            CheckpointError: a field that decides the model's shape is missing, or a field asks for
                something that this family does not do.
        """

    @classmethod
    def of(cls, source: Any) -> Self:
        """Reads a configuration of any make: ours, a dictionary, or an object such as transformers'.

        Raises:
            CheckpointError: there is none, or as `from_dict` says.
        """
        return source if isinstance(source, cls) else cls.from_dict(config_values(source))

    def crop(self, cells: int) -> Crop:
        """Geometry of one crop that the language model gets `cells` tokens per side of."""
        vision = self.vision
        return Crop(side=vision.image_size, seen=vision.patches_per_side * vision.patch_size, cells=cells)


def multimodal_fields(
    values: Mapping[str, Any],
    *,
    family: str,
    vocabulary: int,
    mask_token_id: int,
    aspect_ratios: str,
    offered: str,
) -> dict[str, Any]:
    """The fields of `LlavaConfig` out of a parsed `config.json`, checked.

    Args:
        values: the content of config.json.
        family: name of the family, for messages.
        vocabulary: rows of the embedding.
        mask_token_id: id of the mask token where config.json does not say.
        aspect_ratios: regular expression of the values of `image_aspect_ratio` that are offered.
        offered: the same in words.

    Raises:
        CheckpointError: a field asks for something that this family does not do.
    """

    def check(name: str, allowed: Callable[[Any], object], words: str) -> None:
        if values.get(name) is not None and not allowed(values[name]):
            refuse(name, values[name], words, family=family)

    check("image_aspect_ratio", lambda value: re.fullmatch(aspect_ratios, str(value)), offered)
    check("mm_patch_merge_type", lambda value: value == "spatial_unpad", "'spatial_unpad'")
    check("mm_projector_type", lambda value: value == "mlp2x_gelu", "'mlp2x_gelu'")
    mask = values.get("mask_token_id", mask_token_id)
    if not 0 <= mask < vocabulary:
        words = f"ids below vocab_size = {vocabulary} (default {mask_token_id})"
        refuse("mask_token_id", values.get("mask_token_id"), words, family=family)

    found: dict[str, Any] = {
        "mask_token_id": mask,
        "vision": VisionConfig.from_dict(values.get("vision_config") or {}),
    }
    if (ratio := values.get("image_aspect_ratio")) is not None:
        found["image_aspect_ratio"] = ratio
    if "tokenizer_model_max_length" in values:
        found["tokenizer_model_max_length"] = values["tokenizer_model_max_length"]
    # An explicit list of canvases; the string form "(1x1),...,(6x6)" says what is the default anyway.
    pinpoints = values.get("image_grid_pinpoints")
    if pinpoints is not None and not isinstance(pinpoints, str):
        found["image_grid_pinpoints"] = tuple((int(width), int(height)) for width, height in pinpoints)
    return found
