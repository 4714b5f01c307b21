"""Pictures' tokens among the prompt's embeddings, in the places that the ids hold for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from dcam_adapters.common.layouts import PictureLayout
from dcam_adapters.common.prompt import IMAGE_PLACEHOLDER_ID
from dcam_core.errors import UsageError
from dcam_core.inputs import ImageView, Inputs

__all__ = ["merged_prompt", "placeholders", "several"]


def several(picture: Image.Image | Sequence[Image.Image]) -> Sequence[Image.Image]:
    """One picture or several, as several."""
    return [picture] if isinstance(picture, Image.Image) else picture


def placeholders(ids: Tensor, pictures: int) -> list[int]:
    """Where the pictures go.

    Args:
        ids: [n] int64, the prompt with one -200 for each picture.
        pictures: number of pictures.

    Returns:
        Positions in `ids`, in order.

    Raises:
        UsageError: there are more or fewer places than pictures, or no picture.
    """
    places = (ids == IMAGE_PLACEHOLDER_ID).nonzero()[:, 0].tolist()
    if len(places) != pictures or not pictures:
        raise UsageError(
            f"the prompt has {len(places)} places for a picture (<image>, id {IMAGE_PLACEHOLDER_ID}) and "
            f"{pictures} pictures are given: give one picture for each place, and at least one"
        )
    return places


def merged_prompt(
    ids: Tensor,
    places: Sequence[int],
    pictures: Sequence[Image.Image],
    layouts: Sequence[PictureLayout],
    *,
    embed: Callable[[Tensor], Tensor],
    read: Callable[[Image.Image, PictureLayout], tuple[Tensor, Tensor]],
    limit: int | None,
) -> Inputs:
    """The prompt as the language model reads it.

    Args:
        ids: [n] int64, the prompt with one -200 for each picture.
        places: where these are.
        pictures: the pictures.
        layouts: how each of them goes into the prompt.
        embed: [k] ids -> [k, D].
        read: a picture -> the pixels [crops, 3, S, S] and the image tokens [layout.length, D] of it.
        limit: longest prompt that the model reads; None: any. The originals cut a longer one, pictures
            included; here it is an error.

    Raises:
        UsageError: the merged prompt is longer than `limit`.
    """
    image = sum(layout.length for layout in layouts)
    length = len(ids) - len(places) + image
    if limit is not None and length > limit:
        raise UsageError(
            f"the prompt is {length} tokens long with its pictures ({image} of them), the model reads {limit} "
            "(tokenizer_model_max_length): shorten the prompt"
        )
    parts: list[Tensor] = []
    views: list[ImageView] = []
    pixels, starts, begin, end = [], [], 0, 0
    for index, (picture, layout, place) in enumerate(zip(pictures, layouts, places, strict=True)):
        crops, tokens = read(picture, layout)
        text = embed(ids[begin:place])
        start = end + len(text)
        views += layout.views(start, index)
        parts += [text, tokens.to(text.dtype)]
        pixels.append(crops)
        starts.append(start)
        begin, end = place + 1, start + layout.length
    return Inputs(
        prompt="",
        picture_sizes=tuple(picture.size for picture in pictures),
        embeddings=torch.cat([*parts, embed(ids[begin:])])[None],
        views=tuple(views),
        image_span=(starts[0], end),
        pixels=torch.cat(pixels),
    )
