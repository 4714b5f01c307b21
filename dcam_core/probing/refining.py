"""From raw maps to refined ones: joint normalisation, then the method's refiners, picture by picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import kind_of
from dcam_core.probing.normalise import joint_min_max
from dcam_core.refiner import Refiner, RefinerContext

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.targets import Answer

__all__ = ["is_finer", "refine"]

_ROUNDING = 1e-4  # how far rounding may carry a value out of [0, 1]


def refine(
    raw: Sequence[Tensor],
    refiners: Sequence[tuple[str, Refiner]],
    trajectory: Trajectory,
    answer: Answer,
    image_size: int,
    pictures: Sequence[Image] = (),
) -> tuple[Tensor, ...]:
    """Normalise a target's maps over all pictures together, then refine the maps of each picture.

    A refiner sees one picture at a time and may stretch what it sees to [0, 1] again. Afterwards a picture's
    map is therefore scaled down to the height that its raw map reached beside the other pictures', if it is
    above it: refiners say where in a picture the evidence lies, the raw maps say in which picture. For one
    picture that height is 1, and nothing is scaled.

    Args:
        raw: one [T, H, W] per picture, finite.
        refiners: (label, refiner) in the method's order; the label says in messages what it is and whose.
        trajectory: the recorded run.
        answer: its answer.
        image_size: side in pixels of the square that the vision tower reads.
        pictures: the pictures, RGB, for refiners that look at them; empty: they are not known.

    Returns:
        One [T, H, W] in [0, 1] per picture; on a finer grid where a refiner makes it finer.

    Raises:
        PluginError: a refiner failed, or gave what is not finite [T, H, W] in [0, 1] on its grid.
    """
    if not len(raw[0]):
        return tuple(maps.clone() for maps in raw)
    # An answer that was given took no steps: those that writing it would take.
    steps = trajectory.steps or trajectory.settings.total_steps
    padding = tuple(trajectory.final[trajectory.answer_length :].tolist())
    refined = []
    for maps, picture in zip_longest(joint_min_max(raw), pictures[: len(raw)]):
        seen = None if picture is None else _as_tensor(picture, maps)
        context = RefinerContext(maps, steps, image_size, answer.token_ids, padding, seen)
        finished = _through(refiners, maps, context).clamp(0, 1)
        refined.append(_limited(finished, maps.amax((-2, -1), keepdim=True)))
    return tuple(refined)


def _through(refiners: Sequence[tuple[str, Refiner]], maps: Tensor, context: RefinerContext) -> Tensor:
    """[T, H, W] maps of one picture, through all refiners; what each gives is checked."""
    for label, refiner in refiners:
        try:
            refined = refiner(maps, context)
        except DcamError:
            raise
        except Exception as error:
            raise PluginError(
                label, f"{label} failed on maps {list(maps.shape)}: {describe(error)}"
            ) from error
        if found := _misfit(refined, maps, finer=refiner.finer):
            grid = "or finer " if refiner.finer else ""
            raise PluginError(
                label,
                f"{label} gave {found}: expected finite {list(maps.shape)} {grid}{maps.dtype} in [0, 1]",
            )
        if refined.shape != maps.shape:
            size = refined.shape[-2:]
            stretched = F.interpolate(context.raw[:, None], size, mode="bilinear", align_corners=False)
            context = dataclasses.replace(context, raw=stretched[:, 0])
        maps = refined
    return maps


def _misfit(refined: object, maps: Tensor, *, finer: bool) -> str:
    """What is wrong with a refiner's maps; "" if nothing is."""
    if not isinstance(refined, Tensor):
        return kind_of(refined)
    fits = refined.shape == maps.shape or (finer and is_finer(refined, maps))
    if not fits or refined.dtype != maps.dtype or refined.device != maps.device:
        where = "" if refined.device == maps.device else f" on {refined.device}"
        return f"{kind_of(refined)}{where}"
    if not refined.isfinite().all():
        return f"{list(refined.shape)} with {int((~refined.isfinite()).sum())} values that are not finite"
    if refined.numel() and (refined.amin() < -_ROUNDING or refined.amax() > 1 + _ROUNDING):
        return f"values from {float(refined.amin()):.4g} to {float(refined.amax()):.4g}"
    return ""


def is_finer(refined: Tensor, maps: Tensor) -> bool:
    """Whether maps are as many as others, on a grid with as many rows and columns or more."""
    return (
        refined.ndim == maps.ndim
        and all(new >= old for new, old in zip(refined.shape, maps.shape, strict=True))
        and len(refined) == len(maps)
    )


def _as_tensor(picture: Image, maps: Tensor) -> Tensor:
    """[3, height, width] float32 in [0, 1], where the maps are."""
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)) / 255
    return pixels.permute(2, 0, 1).contiguous().to(maps.device)


def _limited(maps: Tensor, height: Tensor) -> Tensor:
    """[T, H, W] maps scaled so that none rises above its height [T, 1, 1]."""
    peak = maps.amax((-2, -1), keepdim=True)
    return maps * (height / peak).where(peak > height, 1)
